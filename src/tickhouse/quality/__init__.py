"""Proof and completeness: `verify` recomputes what is stored, by a reading of the rules of its own."""
