"""A registry that does as it is told: images made by hand, tokens, lies, breaks. On 127.0.0.1 only."""

import base64
import contextlib
import gzip
import hashlib
import http.server
import io
import json
import socket
import sys
import tarfile
import threading
import time
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
    `breaks` maps a digest to how many bytes of it are sent before the connection is cut, once. `delay_s` is put before
    each answer. `ranges` are the parts of blobs that were asked for (digest, first, end).

    `tricks` maps a tag, a digest, a method or "token" to what is done instead of answering, request by request
    (`tests.tricks`).

    `referrers` maps digests to descriptors of what refers to them, `page` of them at once, by type if it `filters`;
    without it knows no such thing.

    It takes pushes; what has a subject becomes one of its `referrers`, and an If-Match (RFC 9110) is heeded. `mounts`
    are (repository, digest) that may be mounted; `cuts` is a list of how many bytes of each upload request are taken
    before the connection is cut, `largest` the most bytes it takes at once; `moved` is put before the path of uploads
    (http://elsewhere). `uploads` holds what came of those that are not done.
    """

    def __init__(self, tokens=None, breaks=None, delay_s=0.0):
        self.blobs = {}
        self.manifests = {}
        self.tokens = tokens
        self.breaks = dict(breaks or {})
        self.requests = []
        self.delay_s = delay_s
        self.uploads = {}
        self.mounts = set()
        self.cuts = []
        self.largest = 0
        self.moved = ""
        self.forgetful = False
        self.gate = threading.Event()
        self.gate.set()
        self.held = set()
        self.reached = threading.Event()
        self.tricks = {}
        self.referrers = None
        self.page = 100
        self.filters = True
        self.stopped = threading.Event()
        self.sent = 0
        self.ranges = []

    def send(self, out, data):
        """A blob's bytes to whoever asked."""
        out.write(data)
        self.sent += len(data)

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
        self.stopped.set()
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

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # a client that is gone is none
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would wait 40 ms for each answer's acknowledgement
    registry: Fake

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        self.do_GET()

    def do_PATCH(self):
        self.do_GET()

    def do_PUT(self):
        self.do_GET()

    def do_GET(self):
        fake = self.registry
        path = urlsplit(self.path).path
        if fake.delay_s:
            time.sleep(fake.delay_s)
        fake.requests.append((self.command, path, self.headers.get("Authorization", "")))
        if fake.tricks.get(self.command):
            self._taken()
            fake.tricks[self.command].pop(0)(self, b"", 0)
        elif path == "/token":
            self._token()
        elif fake.tokens is not None and self.headers.get("Authorization") != "Bearer good":
            realm = f'Bearer realm="http://{fake.host}/token",service="fake",scope="repository:a:pull"'
            self._taken()
            self._send(401, b"{}", {"WWW-Authenticate": realm})
        elif self.command == "POST":
            self._begin(path.removeprefix("/v2/").removesuffix("/blobs/uploads/"))
        elif "/uploads/" in path:
            self._upload(path.rpartition("/")[2])
        elif self.command == "PUT":
            self._put(path.rpartition("/")[2])
        elif "/referrers/" in path and fake.referrers is not None:
            self._referrers(path)
        elif "/manifests/" in path:
            self._manifest(path.rpartition("/")[2])
        else:
            self._blob(path.rpartition("/")[2])

    def _token(self):
        fake = self.registry
        if fake.tricks.get("token"):
            fake.tricks["token"].pop(0)(self, b"", 0)
            return
        wanted = base64.b64encode(":".join(fake.tokens).encode()).decode() if fake.tokens else ""
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        assert parse_qs(urlsplit(self.path).query)["service"] == ["fake"]
        if wanted and given != wanted:
            self._send(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}')
        else:
            self._send(200, b'{"token":"good","expires_in":300}')

    def _referrers(self, path):
        query = parse_qs(urlsplit(self.path).query)
        found = self.registry.referrers.get(path.rpartition("/")[2], [])
        if self.registry.filters and "artifactType" in query:
            found = [one for one in found if one.get("artifactType") in query["artifactType"]]
        start = int(query.get("start", ["0"])[0])
        end = start + self.registry.page
        headers = {"Content-Type": INDEX}
        if found[end:]:
            headers["Link"] = f'<{path}?start={end}>; rel="next"'
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": found[start:end]}
        self._send(200, json.dumps(document).encode(), headers)

    def _manifest(self, name):
        if name not in self.registry.manifests:
            self._send(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"none"}]}')
            return
        media_type, data = self.registry.manifests[name]
        if self.registry.tricks.get(name):
            self.registry.tricks[name].pop(0)(self, data, 0)
            return
        pinned = name if name.startswith("sha256:") else digest_of(data)
        headers = {"Content-Type": media_type, "Docker-Content-Digest": pinned, "ETag": f'"{digest_of(data)}"'}
        self._send(200, data, headers)

    def _blob(self, digest):
        fake = self.registry
        data = fake.blobs.get(digest)
        if data is None:
            self._send(404, b"{}")
            return
        asked = self.headers.get("Range", "")
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first or 0), min(int(last or len(data)) + 1, len(data))
        if asked:
            fake.ranges.append((digest, start, end))
        if fake.tricks.get(digest):
            fake.tricks[digest].pop(0)(self, data, start)
            return
        cut = fake.breaks.pop(digest, None)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(end - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.end_headers()
        if digest in fake.held:
            half = start + (end - start) // 2
            self.wfile.write(data[start:half])
            self.wfile.flush()
            start = half
            fake.reached.set()
            fake.gate.wait(60)
        try:
            fake.send(self.wfile, data[start : end if cut is None else min(end, start + cut)])
        except OSError:
            self.close_connection = True
        if cut is not None:
            self.close_connection = True

    def _begin(self, repository):
        query = parse_qs(urlsplit(self.path).query)
        if "mount" in query and (query["from"][0], query["mount"][0]) in self.registry.mounts:
            self._send(201, b"")
            return
        upload = f"u{len(self.registry.requests)}"
        self.registry.uploads[upload] = b""
        self._located(202, upload)

    def _located(self, status, upload, size=0):
        where = f"{self.registry.moved}/v2/a/blobs/uploads/{upload}?state=x"
        self._send(status, b"", {"Location": where, "Range": f"0-{max(size - 1, 0)}"})

    def _upload(self, upload):
        """More of it, the rest of it, or the question how much there is."""
        fake = self.registry
        size = int(self.headers.get("Content-Length", 0))
        if upload not in fake.uploads:
            self._taken()
            self._send(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}')
        elif self.command == "GET":
            self._located(204, upload, len(fake.uploads[upload]))
        elif fake.largest and size > fake.largest:
            self._taken()
            self._send(413, b"")
        elif size and fake.cuts:
            fake.uploads[upload] += self._taken(fake.cuts.pop(0))
            if fake.forgetful:
                del fake.uploads[upload]
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self._more(upload)

    def _more(self, upload):
        fake = self.registry
        start = self.headers.get("Content-Range", "").partition("-")[0]
        if start and int(start) != len(fake.uploads[upload]):
            self._taken()
            self._send(416, b"")
            return
        fake.uploads[upload] += self._taken()
        if self.command == "PATCH":
            self._located(202, upload, len(fake.uploads[upload]))
            return
        data = fake.uploads.pop(upload)
        wanted = parse_qs(urlsplit(self.path).query)["digest"][0]
        if digest_of(data) == wanted:
            fake.blob(data)
            self._send(201, b"", {"Docker-Content-Digest": wanted})
        else:
            self._send(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"it is not"}]}')

    def _put(self, name):
        """A manifest, of whose parts none may be missing."""
        fake = self.registry
        data = self._taken()
        document = json.loads(data)
        if "If-Match" in self.headers and self.headers["If-Match"] != f'"{digest_of(fake.manifests[name][1])}"':
            self._send(412, b"")
            return
        parts = [document[key] for key in ("config",) if key in document] + document.get("layers", [])
        manifests = document.get("manifests", [])
        wanted = [part for part in parts if "nondistributable" not in part["mediaType"]]
        if any(part["digest"] not in fake.blobs for part in wanted) or any(
            part["digest"] not in fake.manifests for part in manifests
        ):
            self._send(400, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}')
            return
        for key in (name, digest_of(data)):
            fake.manifests[key] = (self.headers["Content-Type"], data)
        headers = {"Docker-Content-Digest": digest_of(data)}
        if "subject" in document and fake.referrers is not None:
            headers["OCI-Subject"] = document["subject"]["digest"]
            made = {"mediaType": document["mediaType"], "digest": digest_of(data), "size": len(data)}
            fake.referrers.setdefault(document["subject"]["digest"], []).append(made)
        self._send(201, b"", headers)

    def _taken(self, limit=None):
        size = int(self.headers.get("Content-Length", 0))
        return self.rfile.read(size if limit is None else min(limit, size))

    def _send(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
