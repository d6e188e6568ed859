"""Commands of the entries."""
