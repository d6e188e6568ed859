"""How a command shows itself: to a person, to `norml status`, to TensorBoard."""
