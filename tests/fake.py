"""A registry that does as it is told: images made by hand, tokens, lies, breaks. On 127.0.0.1 only."""

import base64
import contextlib
import gzip
import hashlib
import http.server
import io
import json
import socket
import tarfile
import threading
from urllib.parse import parse_qs, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest_of(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer(files):
    """A gzipped tar of `files` (path to bytes), and its diff id."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0), digest_of(plain.getvalue())


class Fake:
    """A context manager. `blobs` by digest and `manifests` by tag or digest (media type, bytes) are what it serves.

    `tokens` (user, password) makes it want Bearer tokens of its own token server, "" for anonymous ones.
    `breaks` maps a digest to how many bytes of it are sent before the connection is cut, once.
    """

    def __init__(self, tokens=None, breaks=None):
        self.blobs = {}
        self.manifests = {}
        self.tokens = tokens
        self.breaks = dict(breaks or {})
        self.requests = []
        self.gate = threading.Event()
        self.gate.set()
        self.held = set()
        self.reached = threading.Event()

    def send(self, out, data):
        """A blob's bytes to whoever asked."""
        out.write(data)

    def blob(self, data):
        self.blobs[digest_of(data)] = data
        return digest_of(data)

    def manifest(self, tag, document, media_type=MANIFEST):
        """Serve `document` (bytes, or what becomes JSON) by tag and digest; its descriptor."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        for name in (tag, digest_of(data)):
            self.manifests[name] = (media_type, data)
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

    def image(self, tag, files, platform=("linux", "amd64"), layer_type=LAYER, **changes):
        """An image of one layer; `changes` replace fields of its manifest. Its descriptor."""
        data, diff_id = layer(files)
        config = json.dumps(
            {
                "os": platform[0],
                "architecture": platform[1],
                "config": {"Cmd": ["/bin/true"]},
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            }
        ).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": self.blob(config), "size": len(config)},
            "layers": [{"mediaType": layer_type, "digest": self.blob(data), "size": len(data)}],
        }
        return self.manifest(tag, {**document, **changes})

    def __enter__(self):
        fake = self

        class Handler(_Handler):
            registry = fake

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="fake-registry")
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self.gate.set()
        self._server.shutdown()
        for connection in self._server.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # a client that keeps one open shall not keep us
        self._server.server_close()
        self._thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, address, handler):
        super().__init__(address, handler)
        self.connections = []

    def process_request(self, request, client_address):
        self.connections.append(request)
        super().process_request(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would wait 40 ms for each answer's acknowledgement
    registry: Fake

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        fake = self.registry
        path = urlsplit(self.path).path
        fake.requests.append((self.command, path, self.headers.get("Authorization", "")))
        if path == "/token":
            self._token()
        elif fake.tokens is not None and self.headers.get("Authorization") != "Bearer good":
            realm = f'Bearer realm="http://{fake.host}/token",service="fake",scope="repository:a:pull"'
            self._send(401, b"{}", {"WWW-Authenticate": realm})
        elif "/manifests/" in path:
            self._manifest(path.rpartition("/")[2])
        else:
            self._blob(path.rpartition("/")[2])

    def _token(self):
        fake = self.registry
        wanted = base64.b64encode(":".join(fake.tokens).encode()).decode() if fake.tokens else ""
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        assert parse_qs(urlsplit(self.path).query)["service"] == ["fake"]
        if wanted and given != wanted:
            self._send(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}')
        else:
            self._send(200, b'{"token":"good","expires_in":300}')

    def _manifest(self, name):
        if name not in self.registry.manifests:
            self._send(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"none"}]}')
            return
        media_type, data = self.registry.manifests[name]
        pinned = name if name.startswith("sha256:") else digest_of(data)
        self._send(200, data, {"Content-Type": media_type, "Docker-Content-Digest": pinned})

    def _blob(self, digest):
        fake = self.registry
        data = fake.blobs.get(digest)
        if data is None:
            self._send(404, b"{}")
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        cut = fake.breaks.pop(digest, None)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if digest in fake.held:
            half = start + (len(data) - start) // 2
            self.wfile.write(data[start:half])
            self.wfile.flush()
            start = half
            fake.reached.set()
            fake.gate.wait(60)
        try:
            fake.send(self.wfile, data[start : None if cut is None else start + cut])
        except OSError:
            self.close_connection = True
        if cut is not None:
            self.close_connection = True

    def _send(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
