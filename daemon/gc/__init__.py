"""Garbage collection: what is referenced stays, the rest goes."""
