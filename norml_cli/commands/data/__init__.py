"""Commands of the Data panel."""
