"""One module a kind of raw source; files of others are taken for hostile."""
