"""One module a command; `app` parses, calls these and prints their errors."""
