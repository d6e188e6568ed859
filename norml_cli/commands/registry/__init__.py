"""Commands of the Registry panel."""
