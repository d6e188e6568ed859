"""One module for each algorithm: its settings, and how to build it."""
