"""holdd, the container daemon."""
