"""What docs/explanation/trust.md promises, and the campaigns that prove it."""
