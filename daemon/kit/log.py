"""Logging of the daemon: one handler, lines of text or JSON, each with the call it belongs to. Knows no component."""

import logging
import sys
import time
from typing import TextIO

import msgspec

from daemon.kit import context

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}
FORMATS = ("text", "json")

_encoder = msgspec.json.Encoder()


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the JSON format. `time` is RFC 3339 in UTC."""

    time: str
    level: str
    msg: str
    logger: str
    namespace: str = ""
    lease: str = ""
    trace: str = ""
    error: str = ""


def line(record: logging.LogRecord, formatter: logging.Formatter) -> Line:
    """`record` with what its call carries. A trace of the stack is part of `error`."""
    call = context.CALL.get()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return Line(
        time=f"{seconds}.{int(record.msecs):03d}Z",
        level=record.levelname.lower(),
        msg=record.getMessage(),
        logger=record.name,
        namespace=call.namespace,
        lease=call.lease,
        trace=call.trace,
        error=formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else "",
    )


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _encoder.encode(line(record, self)).decode()


class TextFormatter(logging.Formatter):
    """`TIME LEVEL LOGGER: MESSAGE key=value ...`. Line breaks in a message are escaped: one record, one first line."""

    def format(self, record: logging.LogRecord) -> str:
        of = line(record, self)
        message = of.msg.replace("\r", "\\r").replace("\n", "\\n")
        text = f"{of.time} {of.level:<7} {of.logger}: {message}"
        for key in ("namespace", "lease", "trace"):
            if value := getattr(of, key):
                text += f" {key}={value}"
        return f"{text}\n{of.error}" if of.error else text


def setup(level: str = "info", format: str = "text", stream: TextIO | None = None) -> logging.Handler:
    """Make the root logger write to `stream` (stderr) and return its handler. KeyError for an unknown level or format.

    Called again, it replaces what it set up before.
    """
    formatter = {"text": TextFormatter, "json": JsonFormatter}[format]()
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(formatter)
    handler.set_name("holdd")
    root = logging.getLogger()
    for old in [h for h in root.handlers if h.get_name() == "holdd"]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    return handler
