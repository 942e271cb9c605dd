"""What a hostile registry does instead of answering: each is a function of a request's handler, the bytes that were
wanted, and the offset they were wanted from. `tests.fake.Fake.tricks` plays them."""

import contextlib
import gzip
import socket
import struct

from tests.fake import MANIFEST, digest_of


def _end(handler, data):
    """Of the part that was asked for."""
    last = handler.headers.get("Range", "").rpartition("-")[2]
    return min(int(last) + 1, len(data)) if last else len(data)


def _head(handler, data, start, end=None, **changes):
    end = _end(handler, data) if end is None else end
    headers = {"Content-Length": str(end - start)}
    if start or end < len(data):
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    handler.send_response(206 if "Content-Range" in headers else 200)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


def resets(after):
    def trick(handler, data, start):
        _head(handler, data, start)
        handler.wfile.write(data[start : start + after])
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True

    return trick


def hangs_up(handler, data, start):
    """Without a word."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def ends_early(after):
    def trick(handler, data, start):
        _head(handler, data, start)
        handler.wfile.write(data[start : start + after])
        handler.close_connection = True

    return trick


def trickles(handler, data, start):
    """A byte now and then, until nobody listens."""
    _head(handler, data, start)
    with contextlib.suppress(OSError):
        for at in range(start, len(data)):
            handler.wfile.write(data[at : at + 1])
            handler.registry.stopped.wait(0.02)
    handler.close_connection = True


def says_nothing(handler, data, start):
    handler.registry.stopped.wait(60)
    handler.close_connection = True


def stalls(after):
    def trick(handler, data, start):
        _head(handler, data, start)
        handler.wfile.write(data[start : start + after])
        says_nothing(handler, data, start)

    return trick


def ignores_ranges(handler, data, start):
    _head(handler, data, 0, len(data))
    handler.wfile.write(data)


def all_that_is_left(handler, data, start):
    """Whatever the end that was asked for."""
    _head(handler, data, start, len(data), Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
    handler.wfile.write(data[start:])


def part(change=bytes):
    """The part that was asked for, of what `change` makes of the blob."""

    def trick(handler, data, start):
        data = change(data)
        end = _end(handler, data)
        _head(handler, data, start, end, ETag=f'"{digest_of(data)}"')
        handler.wfile.write(data[start:end])

    return trick


def another_range(handler, data, start):
    _head(handler, data, max(start - 1, 1), len(data))
    handler.wfile.write(data[max(start - 1, 1) :])


def other_bytes(handler, data, start):
    _head(handler, data, start)
    handler.wfile.write(bytes(len(data) - start))


def another_length(extra):
    def trick(handler, data, start):
        body = data[start:] + bytes(extra) if extra > 0 else data[start:extra]
        _head(handler, data, start, Content_Length=str(len(body)))
        handler.wfile.write(body)

    return trick


def encoded(handler, data, start):
    """64 MiB of nothing, called the encoded form of what was wanted."""
    body = gzip.compress(bytes(1 << 20)) * 64  # members, one after the other (RFC 1952, 2.2): made in no time
    _head(handler, data, start, Content_Length=str(len(body)), Content_Encoding="gzip")
    handler.wfile.write(body)


def page(handler, data, start):
    handler._send(200, b"<html>please log in</html>", {"Content-Type": "text/html"})


def status(code, **headers):
    def trick(handler, data, start):
        handler._send(code, b"{}", {name.replace("_", "-"): value for name, value in headers.items()})

    return trick


def challenges(handler, data, start):
    """Whatever token comes."""
    realm = f'Bearer realm="http://{handler.registry.host}/token",service="fake"'
    handler._send(401, b"{}", {"WWW-Authenticate": realm})


def redirects(handler, data, start):
    handler._send(307, b"", {"Location": handler.path})


def endless(handler, data, start):
    """A gigabyte and more, without a length, until nobody listens."""
    handler.send_response(200)
    for name, value in (("Transfer-Encoding", "chunked"), ("Content-Type", MANIFEST)):
        handler.send_header(name, value)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while handler.command != "HEAD" and not handler.registry.stopped.is_set():
            handler.registry.send(handler.wfile, b"10000\r\n" + bytes(1 << 16) + b"\r\n")
    handler.close_connection = True


def elsewhere(location):
    def trick(handler, data, start):
        handler._send(307, b"", {"Location": location})

    return trick
