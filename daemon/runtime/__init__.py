"""Running processes: OCI runtimes driven through one shim a container."""
