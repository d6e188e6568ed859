"""What lies under a results folder."""
