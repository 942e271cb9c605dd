"""The shared language of holdd: types and pure functions. No I/O, nothing of the daemon."""
