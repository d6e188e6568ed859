"""Commands that read what was made."""
