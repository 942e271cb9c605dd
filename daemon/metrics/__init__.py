"""Container and cgroup figures, OOM verdicts."""
