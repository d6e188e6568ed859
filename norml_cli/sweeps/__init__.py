"""Many trainings, each an ordinary process: which, where, and what becomes of them."""
