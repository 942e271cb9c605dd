"""The API: one module a service, each with its requests, its replies and its method table."""
