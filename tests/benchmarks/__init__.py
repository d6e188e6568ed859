"""Time and memory beside other libraries."""

from norml_cli.threads import spin_briefly

spin_briefly()  # as the command line does; the modules of this package import torch
