"""The client library: a blocking connection, its asyncio twin, stubs and proxies."""
