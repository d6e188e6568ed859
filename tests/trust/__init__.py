"""What docs/trust.md promises, and the campaigns that prove it."""
