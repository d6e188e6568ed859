"""Commands of the Results panel."""
