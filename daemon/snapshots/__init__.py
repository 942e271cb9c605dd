"""Trees by key: snapshotters that hand out mounts and never mount."""
