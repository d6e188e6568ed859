"""Readers of raw data, one module per kind of source. They treat all input files as hostile."""
