"""Layers applied to mounts, and differences of mounts made into layers."""
