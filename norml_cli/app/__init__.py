"""The command line: the options of every command, one file a panel of `norml --help`. Nothing here computes."""
