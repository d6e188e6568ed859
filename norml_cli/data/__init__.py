"""From raw data to caches, examples and fixed episodes."""
