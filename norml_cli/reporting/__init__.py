"""Results as text, LaTeX, HTML and pictures."""
