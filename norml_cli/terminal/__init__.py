"""What a command shows: help, output, progress, and status for `norml status` and TensorBoard."""
