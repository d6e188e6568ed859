"""Commands of the Runs panel."""
