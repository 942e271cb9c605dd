"""Containers that are started again when they have ended."""
