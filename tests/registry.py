"""Registries for tests and demonstrations: Debian's docker-registry as a process, and images made and pushed by other
people's tools (umoci, skopeo)."""

import contextlib
import ctypes
import functools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

START_S = 30.0
BUSYBOX = next(path for path in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(path))
APPLETS = (
    "cat", "chmod", "cp", "cut", "date", "dd", "echo", "env", "false", "find", "free", "grep", "head", "hostname", "id",
    "ip", "kill", "ln", "ls", "mkdir", "mount", "mv", "od", "printf", "ps", "pwd", "readlink", "rm", "sed", "seq", "sh",
    "sleep", "sort", "stat", "stty", "tail", "tee", "test", "top", "touch", "tr", "true", "tty", "umount", "uname",
    "wc", "yes",
)  # fmt: skip
PASSWD = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
GROUP = "root:x:0:\ndaemon:x:1:\nuser:x:1000:\nextra:x:2000:user\n"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Registry:
    """docker-registry below `directory`, on a free port of 127.0.0.1. A context manager.

    `tls` serves https with a certificate of an authority of its own (`.ca` is its path). `auth` is (user, password)
    for Basic authentication. `.requests()` counts what the access log has, by method and kind.
    """

    def __init__(self, directory, tls=False, auth=None):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.auth = auth
        self.tls = certificate(self.directory) if tls else None
        self.ca = self.tls.ca if tls else None
        self.host = ""
        self.log = self.directory / "registry.log"
        self._process = None

    def start(self):
        self.host = f"127.0.0.1:{free_port()}"
        config = self.directory / "registry.yml"
        config.write_bytes(msgspec.json.encode(self._config()))  # JSON is YAML
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"docker-registry did not start: {self.log.read_text()}")
            time.sleep(0.02)
        return self

    def stop(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def requests(self):
        """Request lines of the access log, as (method, path)."""
        lines = [line.split('"') for line in self.log.read_text().splitlines() if '"' in line and "HTTP/1" in line]
        return [tuple(part.split()[:2]) for line in lines for part in line if part.endswith(("HTTP/1.1", "HTTP/1.0"))]

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.stop()

    def _listens(self):
        host, _, port = self.host.rpartition(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return True
        return False

    def _config(self):
        http = {"addr": self.host, "secret": "no secret"}
        if self.tls:
            http["tls"] = {"certificate": str(self.tls.certificate), "key": str(self.tls.key)}
        config = {
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(self.directory / "data")}, "delete": {"enabled": True}},
            "http": http,
        }
        if self.auth:
            path = self.directory / "htpasswd"
            path.write_text(f"{self.auth[0]}:{_bcrypt(self.auth[1])}\n")
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(path)}}
        return config


class Certificate(msgspec.Struct, frozen=True):
    """Paths of an authority's certificate and of a server's certificate and key."""

    ca: Path
    certificate: Path
    key: Path


def certificate(directory):
    """An authority, and a certificate by it for 127.0.0.1 and localhost."""
    directory = Path(directory)
    paths = Certificate(ca=directory / "ca.crt", certificate=directory / "server.crt", key=directory / "server.key")
    ca_key = directory / "ca.key"
    extensions = directory / "server.ext"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _run("openssl", "req", "-x509", *key, "-keyout", ca_key, "-out", paths.ca, "-days", "2", "-subj", "/CN=test CA")
    request = directory / "server.csr"
    _run("openssl", "req", *key, "-keyout", paths.key, "-out", request, "-subj", "/CN=test")
    _run(
        "openssl", "x509", "-req", "-in", request, "-CA", paths.ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2",
        "-extfile", extensions, "-out", paths.certificate,
    )  # fmt: skip
    return paths


def make_image(directory, registry, name, layers: Sequence[Mapping[str, object]] = (), config=(), base=True):
    """Make an image below `directory` and push it to `registry` as `name` ("repo/name:tag"); its manifest's digest.

    Its first layer is busybox with applets, users and groups (not with `base` false), its second a greeting at
    /etc/motd; then come `layers`, each a map from path to bytes (a file) or str (a symbolic link's target). `config`
    adds arguments of `umoci config`.
    """
    work = Path(directory) / f"image-{name.replace('/', '_').replace(':', '_')}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    image = f"{work / 'oci'}:latest"
    _run("umoci", "init", "--layout", work / "oci")
    _run("umoci", "new", "--image", image)
    first = (_busybox_layer(),) if base else ()
    for number, layer in enumerate((*first, {"etc/motd": f"hello from {name}\n".encode()}, *layers)):
        source = work / f"layer-{number}"
        _write(source, layer)
        _run("umoci", "insert", "--image", image, source, "/")
    _run("umoci", "config", "--image", image, "--config.cmd", "/bin/sh", "--config.env", f"PATH={PATH}", *config)
    digest = push(work / "oci", registry, name)
    shutil.rmtree(work)
    return digest


def push(layout, registry, name, tag="latest", options=()):
    """Push an OCI layout's image with skopeo; the pushed manifest's digest."""
    digest = Path(layout) / "pushed"
    arguments = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", "--digestfile", digest, *options]
    if registry.auth:
        arguments += ["--dest-creds", ":".join(registry.auth)]
    _run("skopeo", *arguments, f"oci:{layout}:{tag}", f"docker://{registry.host}/{name}")
    return digest.read_text().strip()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _busybox_layer():
    applets = {f"bin/{name}": "busybox" for name in APPLETS}
    users = {"etc/passwd": PASSWD.encode(), "etc/group": GROUP.encode(), "etc/hostname": b"holdd\n"}
    folders = {f"{name}/.keep": b"" for name in ("dev", "home/user", "proc", "root", "sys", "tmp", "var/lib")}
    return {"bin/busybox": Path(BUSYBOX).read_bytes(), **applets, **users, **folders}


def _write(root, layer):
    root.mkdir()
    for name, content in layer.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
            path.chmod(0o755 if name.startswith("bin/") else 0o644)


def _run(*argv):
    done = subprocess.run(
        [str(word) for word in argv], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, argv[:3]))}: {done.stdout}{done.stderr}")


@functools.cache
def _bcrypt(password):
    """By libcrypt: docker-registry knows no other hash."""
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    return crypt(password.encode(), b"$2b$05$abcdefghijklmnopqrstuu").decode()

