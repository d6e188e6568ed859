"""The shared models of NORML and its MAML baselines: pure torch, no files, no prints, no global generator.

Dimension letters, used in every shape of this package:

    E episodes          N way               K shots             Q queries per class
    S = N * K support   M = N * Q query     D input features    L layers
    O neurons out       I neurons in        T inner steps       F LSTM inputs       H LSTM cell size

Words: an *episode* is one N-way K-shot problem with a *support* and a *query* set; the *learner* is adapted to it by
*inner steps*; an *update rule* turns the learner's *update signals* (layer gradients delta and layer inputs h; the
paper's "node" is a neuron) into the scaled signals of a step; the *meta-learner* holds what *outer steps* learn.
"""
