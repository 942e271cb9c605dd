"""The filter language of containerd (pkg/filters), made into predicates.

    filter   = selector *("," selector)        all must match
    selector = path [operator value]           alone: present and not empty
    path     = name *("." name)                a name is bare or in double quotes
    operator = "==" | "!=" | "~="              equal, unequal, matches a regular expression
    value    = bare | "quoted" | /quoted/ | |quoted|

A list of filters matches when one of them does; an empty list matches everything. Errors give the position in runes,
and the place marked `>|x|<`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from spec import errors

T = TypeVar("T")
Fields = Callable[[T, Sequence[str]], str | None]
Getter = Callable[[T], str | Mapping[str, str] | None]

_OPERATORS = ("==", "!=", "~=")
_SEPARATORS = frozenset(",.=!~ \t\r\n\"|/")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}


class Selector(NamedTuple):
    """One test of one field; `operator` is empty for presence."""

    path: tuple[str, ...]
    operator: str
    value: str


def matcher(filters: Sequence[str], fields: "Fields[T]") -> Callable[[T], bool]:
    """A predicate that is true for what matches one of `filters`; InvalidArgument for one that cannot be parsed.

    `fields` gives an object's value at a path, None where there is none.
    """
    if not filters:
        return lambda obj: True
    alternatives = [[_test(selector, fields) for selector in parse(text)] for text in filters]
    return lambda obj: any(all(test(obj) for test in tests) for tests in alternatives)


def fields_of(getters: "Mapping[str, Getter[T]]") -> "Fields[T]":
    """Fields by name (dotted ones too); where a getter gives a map, the rest of the path is a key of it."""

    def field(obj: T, path: Sequence[str]) -> str | None:
        for length in range(len(path), 0, -1):
            getter = getters.get(".".join(path[:length]))
            if getter is None:
                continue
            value = getter(obj)
            if isinstance(value, Mapping):
                return value.get(".".join(path[length:]))
            return value if length == len(path) else None
        return None

    return field


def parse(text: str) -> list[Selector]:
    """The selectors of one filter; none of an empty one."""
    return _Parser(text).selectors()


def _test(selector: Selector, fields: "Fields[T]") -> Callable[[T], bool]:
    path, operator, value = selector
    if operator == "==":
        return lambda obj: fields(obj, path) == value
    if operator == "!=":
        return lambda obj: (fields(obj, path) or "") != value
    if operator == "~=":
        try:
            pattern = re.compile(value)
        except re.error as exc:
            raise errors.InvalidArgument(f"filter: {value!r} is not a regular expression: {exc}") from exc
        return lambda obj: (found := fields(obj, path)) is not None and pattern.search(found) is not None
    return lambda obj: bool(fields(obj, path))


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def selectors(self) -> list[Selector]:
        self._skip_space()
        if self._at == len(self._text):
            return []
        found = [self._selector()]
        while self._peek() == ",":
            self._at += 1
            found.append(self._selector())
        if self._at < len(self._text):
            raise self._error("unexpected input")
        return found

    def _selector(self) -> Selector:
        path = [self._name()]
        while self._peek() == ".":
            self._at += 1
            path.append(self._name())
        self._skip_space()
        if self._peek() in ("", ","):
            return Selector(tuple(path), "", "")
        operator = self._text[self._at : self._at + 2]
        if operator not in _OPERATORS:
            raise self._error("expected an operator")
        self._at += 2
        self._skip_space()
        value = self._value(operator)
        self._skip_space()
        return Selector(tuple(path), operator, value)

    def _name(self) -> str:
        self._skip_space()
        head = self._peek()
        if head == '"':
            return self._quoted()
        if head in ("/", "|"):
            raise self._error("invalid quote encountered")
        start = self._at
        while self._at < len(self._text) and self._text[self._at] not in _SEPARATORS:
            self._at += 1
        if self._at == start:
            raise self._error("expected field or quoted")
        self._refuse_control(start)
        if self._peek() == '"':
            raise self._error("invalid quote encountered")
        return self._text[start : self._at]

    def _value(self, operator: str) -> str:
        head = self._peek()
        if head == '"' or (head in ("/", "|") and head and operator == "~="):
            return self._quoted()
        if head == "/":
            raise self._error("quoted literal not terminated")
        start = self._at
        while self._at < len(self._text) and self._text[self._at] not in ', \t\r\n"':
            self._at += 1
        if self._at == start:
            raise self._error("expected value or quoted")
        self._refuse_control(start)
        return self._text[start : self._at]

    def _quoted(self) -> str:
        quote = self._peek()
        self._at += 1
        out: list[str] = []
        while (char := self._peek()) != quote:
            if char in ("", "\n"):
                raise self._error("quoted literal not terminated")
            self._at += 1
            if char != "\\":
                out.append(char)
            elif quote == '"':
                out.append(self._escape())
            elif self._peek() == quote:  # a regular expression keeps its own backslashes
                out.append(quote)
                self._at += 1
            else:
                out.append(char)
        self._at += 1
        return "".join(out)

    def _escape(self) -> str:
        """Go's escapes: one letter, octal, \\x, \\u, \\U."""
        char = self._peek()
        if char in _ESCAPES or char == '"':
            self._at += 1
            return _ESCAPES.get(char, char)
        digits, base, skip = {"x": (2, 16, 1), "u": (4, 16, 1), "U": (8, 16, 1)}.get(char, (3, 8, 0))
        text = self._text[self._at + skip : self._at + skip + digits]
        alphabet = "01234567" if base == 8 else "0123456789abcdefABCDEF"
        if len(text) != digits or any(digit not in alphabet for digit in text) or int(text, base) > 0x10FFFF:
            raise self._error("illegal escape sequence")
        self._at += skip + digits
        return chr(int(text, base))

    def _refuse_control(self, start: int) -> None:
        for index in range(start, self._at):
            if ord(self._text[index]) < 32:
                self._at = index
                raise self._error("illegal character")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip_space(self) -> None:
        while self._peek() in (" ", "\t", "\r", "\n") and self._peek():
            self._at += 1

    def _error(self, what: str) -> errors.InvalidArgument:
        text, at = self._text, self._at
        marked = f"{text[:at]}>|{text[at : at + 1]}|<{text[at + 1 :]}"
        return errors.InvalidArgument(f"filter [{marked[:400]}], position {at}: {what}")
