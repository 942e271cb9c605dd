"""What goes over HTTP, as text for whoever looks for a fault. Secrets are left out, and bodies."""

import contextlib
import re
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from spec.oci import distribution

REDACTED = "REDACTED"
ADDRESSES = frozenset({"location", "content-location", "referer"})
PUBLIC = frozenset({"www-authenticate", "proxy-authenticate"})
_SECRET = re.compile(r"auth|cookie|token|secret|password|signature|credential|key", re.ASCII)

Told = Callable[[str], None]


class Wire:
    """With `dump` the heads of requests and answers are told, with `trace` what connections do and how long it took.
    From any thread; `told` gets some lines at a time."""

    def __init__(self, dump: bool = False, trace: bool = False) -> None:
        self.dump = dump
        self.trace = trace
        self.told: Told = lambda text: None

    def asked(self, method: str, url: str, headers: Mapping[str, str], private: Collection[str]) -> None:
        """A request; `private` are names of its headers, in small letters, whose values nobody shall see."""
        if self.dump:
            self.told("\n".join([f"> {method} {distribution.redacted(url)}", *_lines("> ", headers, private)]))

    def answered(self, answer: Any, began_s: float) -> None:
        if self.dump:
            self.told("\n".join([f"< {answer.status} {answer.reason or ''}", *_lines("< ", answer.headers, ())]))
        if self.trace:
            self.told(f"* the answer began after {_ms(began_s)}")

    def took(self, host: str, port: int | None) -> None:
        if self.trace:
            self.told(f"* a connection to {host}:{port} serves again")

    def connected(self, connection: Any, began_s: float) -> None:
        """How, and with whom."""
        if not self.trace:
            return
        sock, about = connection.sock, []
        with contextlib.suppress(OSError):  # it is gone again
            about = ["{}:{}".format(*sock.getpeername()[:2])]
        if hasattr(sock, "cipher"):
            about += [sock.version(), sock.cipher()[0]]
        self.told(f"* connected to {connection.host}:{connection.port} ({', '.join(about)}) in {_ms(began_s)}")

    def failed(self, connection: Any, exc: Exception, began_s: float) -> None:
        if self.trace:
            self.told(f"* no connection to {connection.host}:{connection.port} after {_ms(began_s)}: {exc}")


def _lines(mark: str, headers: Mapping[str, str], private: Collection[str]) -> list[str]:
    return [f"{mark}{name}: {_shown(name.lower(), value, private)}" for name, value in headers.items()]


def _shown(name: str, value: str, private: Collection[str]) -> str:
    if name in ADDRESSES:
        return distribution.redacted(value)
    if name == "authorization" and name not in private and " " in value:
        return f"{value.partition(' ')[0]} {REDACTED}"
    if name in private or (_SECRET.search(name) and name not in PUBLIC):
        return REDACTED
    return "".join(letter if letter.isprintable() else "?" for letter in value)


def _ms(began_s: float) -> str:
    return f"{(time.monotonic() - began_s) * 1000:.1f} ms"
