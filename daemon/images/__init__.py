"""Registries and archives: resolving, fetching and pushing what images are made of."""
