"""Records and edges: typed tables in nested buckets of one LMDB environment."""
