"""Adam without a second of start-up.

torch wraps these methods of its optimisers so that torch.compile leaves them out, which imports all of torch.compile
at their first call. Nothing here compiles an optimiser's step, so the methods inside the wraps do the same.
"""

import inspect

import torch


class Adam(torch.optim.Adam):
    """`torch.optim.Adam`, with the same steps and the same state. Not for use within torch.compile."""

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
