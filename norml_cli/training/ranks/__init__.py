"""One training on several processes (ranks), each with a device of its own."""
