"""The code of each command, one module per command. `app` parses the options, calls it and prints its errors."""
