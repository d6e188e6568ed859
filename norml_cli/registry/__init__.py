"""What may be declared, and what a declaration resolves to."""
