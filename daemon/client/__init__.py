"""Clients of the daemon: blocking, asynchronous, and proxies that satisfy the ports. Sees `spec`; `mounting` alone sees
the kit, too."""

from daemon.client.client import Client


def connect(
    address: str, namespace: str = "", lease: str = "", timeout_s: float | None = None, trace: str = ""
) -> Client:
    """A client of the daemon at `address`; see Client."""
    return Client(address, namespace, lease, timeout_s, trace=trace)
