"""The exchange that carries events from publishers to subscribers."""
