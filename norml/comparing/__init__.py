"""Classifying queries by how similar they are to the support set."""
