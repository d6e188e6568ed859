"""Files that are whole or not there, and what is told where they cannot be."""
