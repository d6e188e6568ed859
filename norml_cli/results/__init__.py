"""Results folders: records, and the tables and comparisons computed from them."""
