"""Proofs, in folders that mirror the code."""
