"""What a runtime, and CRIU below it, says of a failure: in its log, on its output, or by how it ended. Runs nothing."""

import signal

import msgspec

CRIU_ERRORS = 3  # of its log
WORDS_MAX = 1024  # characters of a message, the last ones: there runtimes say why


class _Line(msgspec.Struct, frozen=True):
    level: str = ""
    msg: str = ""


def complaint(log: bytes, output: bytes, status: int) -> str:
    """Why a call failed, in the runtime's words: the last error of its log, or else the last line of its output, or
    else how it ended: `status` is its exit code, or 128 + the signal that killed it."""
    return logged(log) or printed(output) or _ending(status)


def logged(log: bytes) -> str:
    """The last error in a log of JSON lines; "" without one."""
    for line in reversed(log.splitlines()):
        try:
            entry = msgspec.json.decode(line, type=_Line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if entry.level in ("error", "fatal", "panic") and entry.msg.strip():
            return _fit(entry.msg)
    return ""


def printed(output: bytes) -> str:
    """The last line of an output that says something; "" without one."""
    return next((text for line in reversed(output.splitlines()) if (text := _fit(line.decode(errors="replace")))), "")


def criu_complaint(log: bytes) -> str:
    """The last errors in CRIU's log: what failed, and what failed of that. The first ones may be of what it could do
    without. "" without any."""
    errors = [line[line.index("Error (") :] for line in log.decode(errors="replace").splitlines() if "Error (" in line]
    return _fit("; ".join(line.strip() for line in errors[-CRIU_ERRORS:]))


def _fit(text: str) -> str:
    """On one line, of a length that people read, without what would steer their terminal."""
    plain = "".join(char if char.isprintable() else " " if char.isspace() else "\ufffd" for char in text.strip())
    return plain if len(plain) <= WORDS_MAX else f"... {plain[-WORDS_MAX:]}"


def _ending(status: int) -> str:
    try:
        return f"it was killed by {signal.Signals(status - 128).name}"
    except ValueError:
        return f"it ended with status {status}"
