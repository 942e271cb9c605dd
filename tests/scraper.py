"""A scraper of the metrics endpoint, at either kind of address."""

import http.client
import socket


class _Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Scraper:
    """Keeps its connection, as Prometheus does. A context manager."""

    def __init__(self, address):
        path = address.removeprefix("unix://")
        self._connection = _Unix(path) if path.startswith("/") else http.client.HTTPConnection(address, timeout=60)

    def scrape(self):
        self._connection.request("GET", "/v1/metrics")
        answer = self._connection.getresponse()
        body = answer.read().decode()
        assert answer.status == 200, body
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return body

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._connection.close()
