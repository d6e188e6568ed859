"""Commands of the Upkeep panel."""
