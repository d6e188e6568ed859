"""Atomic file writes, locks, plain JSON and YAML, and the errors that a user sees."""
