"""A collector of traces: takes OTLP/HTTP JSON, keeps the spans, and fails as it is told to."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Collector:
    """On 127.0.0.1, on a thread. `statuses` are answered first, one a request. A context manager."""

    def __init__(self, statuses=()):
        self.spans = []
        self.resources = []
        self.headers = []
        self.requests = 0
        self._statuses = list(statuses)
        self._changed = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(outer._take(self.path, self.headers, body))
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _take(self, path, headers, body):
        with self._changed:
            self.requests += 1
            self._changed.notify_all()
            if path != "/v1/traces" or headers["Content-Type"] != "application/json":
                return 404
            if self._statuses:
                return self._statuses.pop(0)
            self.headers.append(dict(headers))
            for resource in json.loads(body)["resourceSpans"]:
                self.resources.append(attributes(resource["resource"]))
                self.spans += [span for scope in resource["scopeSpans"] for span in scope["spans"]]
            return 200

    def wait(self, enough, seconds=30.0):
        """Until `enough(spans)` is true of those that came; them."""
        with self._changed:
            assert self._changed.wait_for(lambda: enough(self.spans), seconds), [span["name"] for span in self.spans]
            return list(self.spans)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def attributes(of):
    """As a mapping, numbers as numbers."""
    found = {}
    for entry in of["attributes"]:
        ((kind, value),) = entry["value"].items()
        found[entry["key"]] = int(value) if kind == "intValue" else value
    return found
