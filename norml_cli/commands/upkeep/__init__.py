"""Commands that look after the installation."""
