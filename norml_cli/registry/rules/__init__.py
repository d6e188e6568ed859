"""One module an algorithm: its settings, and how it is built."""
