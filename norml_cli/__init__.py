"""The command line: everything around the models that touches disk, terminal and YAML."""

__version__ = "0.2.0"
