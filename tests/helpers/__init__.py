"""What several tests use: slow references, made data and records, a shell."""
