"""Sweeps over several machines: a Ray cluster whose nodes have a network each, and a Slurm of one node."""
