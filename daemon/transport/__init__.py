"""Ways in: the unix socket, and later others."""
