"""A web server that answers each path as told, in order, and remembers what it was asked. On 127.0.0.1 only."""

import contextlib
import http.server
import socket
import sys
import threading
from dataclasses import dataclass, field


@dataclass
class Reply:
    """`promised` is a Content-Length that is not the body's; `hold` keeps the connection open after the body."""

    status: int = 200
    body: bytes = b""
    headers: dict = field(default_factory=dict)
    promised: int = -1
    hold: bool = False


@dataclass
class Request:
    method: str
    path: str
    headers: dict
    body: bytes


class Answers:
    """A context manager. `replies` by path, without query; what is not there is 404."""

    def __init__(self):
        self.replies = {}
        self.requests = []
        self.released = threading.Event()
        self._connections = []

    def __enter__(self):
        class Handler(_Handler):
            answers = self

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="answers")
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self.released.set()
        self._server.shutdown()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # a client that is gone is none
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answers: Answers

    def setup(self):
        super().setup()
        self.answers._connections.append(self.request)

    def log_message(self, *args):
        pass

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        self.answers.requests.append(Request(self.command, self.path, dict(self.headers), body))
        replies = self.answers.replies.get(path)
        reply = replies.pop(0) if replies else Reply(404)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        length = reply.promised if reply.promised >= 0 else len(reply.body)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):
                self.wfile.write(reply.body)
        if reply.hold:
            self.answers.released.wait(60)
        if length != len(reply.body):
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_PATCH = do_GET
