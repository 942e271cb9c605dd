"""ctr, the command line for development and debugging. Sees spec and daemon.client only."""
