"""The options of every command, one file for each panel of `norml --help`. Nothing here computes."""
