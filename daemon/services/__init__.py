"""The API's methods, one module a service."""
