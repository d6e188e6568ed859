"""Everything around the shared models that touches disk, terminal and YAML."""

__version__ = "0.1.0"
