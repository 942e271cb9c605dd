"""The filter language of containerd (pkg/filters), made into predicates.

    filter   = selector *("," selector)        all must match
    selector = path [operator value]           alone: present and not empty
    path     = name *("." name)                a name is letters, digits and "_", or "quoted"
    operator = "==" | "!=" | "~="              equal, unequal, a regular expression is found in it
    value    = bare | "quoted"                 bare: up to a comma or space; after "~=" also /quoted/ or |quoted|

A quoted text has Go's escapes. A list of filters matches when one of them does; an empty list or filter matches
everything. What is not there is unequal to all, equal to nothing, and an empty text to a regular expression. Those are
Python's and may backtrack: whoever may write filters is trusted. Errors give the position in characters and the place,
marked `>|x|<`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from spec import errors

T = TypeVar("T")
Fields = Callable[[T, Sequence[str]], str | None]
Getter = Callable[[T], str | Mapping[str, str] | None]

_OPERATORS = ("==", "!=", "~=")
_QUOTES = ('"', "/", "|")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}
_NUMERIC = {"x": (2, 16), "u": (4, 16), "U": (8, 16)}
_DIGITS = {8: frozenset("01234567"), 16: frozenset("0123456789abcdefABCDEF")}


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


def exact(filters: Sequence[str], field: str) -> frozenset[str] | None:
    """The values of `field` of which whatever matches has one; None when it may have any. InvalidArgument.

    What a lookup by key needs, instead of asking all there are.
    """
    wanted = set()
    for text in filters:
        values = {value for path, operator, value in parse(text) if (path, operator) == ((field,), "==")}
        if not values:
            return None
        wanted |= values
    return frozenset(wanted) if filters else None


def parse(text: str) -> list[Selector]:
    """The selectors of one filter; none of an empty one. InvalidArgument."""
    return _Parser(text).selectors() if text else []


def _test(selector: Selector, fields: "Fields[T]") -> Callable[[T], bool]:
    path, operator, value = selector
    if operator == "==":
        return lambda obj: fields(obj, path) == value
    if operator == "!=":
        return lambda obj: (fields(obj, path) or "") != value
    if operator == "~=":
        try:
            pattern = re.compile(value)
        except (re.error, OverflowError, RecursionError) as exc:
            raise errors.InvalidArgument(f"filter: {value[:200]!r} is not a regular expression: {exc}") from exc
        return lambda obj: pattern.search(fields(obj, path) or "") is not None
    return lambda obj: bool(fields(obj, path))


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def selectors(self) -> list[Selector]:
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
        if self._peek() in ("", ","):
            return Selector(tuple(path), "", "")
        operator = self._operator()
        value = self._value(operator)
        return Selector(tuple(path), operator, value)

    def _name(self) -> str:
        self._skip_space()
        if self._peek() in _QUOTES:
            return self._quoted(('"',))
        name = self._run(lambda char: char.isalnum() or char == "_")
        if not name:
            raise self._error("unexpected null" if self._peek() == "\0" else "expected field or quoted")
        self._skip_space()
        return name

    def _operator(self) -> str:
        start = self._at
        operator = self._run(lambda char: char in "=!~")
        if operator in _OPERATORS:
            return operator
        self._at = start
        if operator:
            raise self._error(f"unsupported operator {operator!r}")
        if self._peek() in _QUOTES:
            self._quoted(_QUOTES)  # one that does not end is the likelier mistake: labels.example.com/key
            self._at = start
        raise self._error("unexpected null" if self._peek() == "\0" else "expected an operator")

    def _value(self, operator: str) -> str:
        self._skip_space()
        if self._peek() in _QUOTES:
            return self._quoted(_QUOTES if operator == "~=" else ('"',))
        value = self._run(lambda char: char != "," and char.isprintable() and not char.isspace())
        if not value:
            raise self._error("unexpected null" if self._peek() == "\0" else "expected value or quoted")
        self._skip_space()
        return value

    def _quoted(self, allowed: Sequence[str]) -> str:
        start, quote = self._at, self._peek()
        self._at += 1
        out = bytearray()
        while (char := self._peek()) != quote:
            if char in ("", "\n"):
                self._at = start
                raise self._error("quoted literal not terminated")
            self._at += 1
            out += self._escape(quote) if char == "\\" else char.encode("utf-8", "surrogatepass")
        self._at += 1
        try:
            text = out.decode()
        except UnicodeDecodeError:
            self._at = start
            raise self._error("quoted literal is not UTF-8") from None
        if quote not in allowed:
            self._at = start
            raise self._error("invalid quote encountered")
        self._skip_space()
        return text

    def _escape(self, quote: str) -> bytes:
        """What follows a backslash: a letter, the quote, or a number, which is a byte (octal, \\x) or a character."""
        char = self._peek()
        if char in _ESCAPES or char == quote:
            self._at += 1
            return _ESCAPES.get(char, char).encode()
        if char not in _NUMERIC and char not in _DIGITS[8]:
            raise self._error("illegal escape sequence")
        count, base = _NUMERIC.get(char, (3, 8))
        start = self._at + (base == 16)
        digits = self._text[start : start + count]
        if len(digits) != count or not _DIGITS[base].issuperset(digits):
            raise self._error("illegal numeric escape sequence")
        self._at = start + count
        number = int(digits, base)
        if number > (0xFF if char not in "uU" else 0x10FFFF):
            raise self._error("illegal numeric escape sequence")
        return chr(number).encode("utf-8", "surrogatepass") if char in "uU" else bytes([number])

    def _run(self, belongs: Callable[[str], bool]) -> str:
        start = self._at
        while self._at < len(self._text) and belongs(self._text[self._at]):
            self._at += 1
        return self._text[start : self._at]

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip_space(self) -> None:
        self._run(str.isspace)

    def _error(self, what: str) -> errors.InvalidArgument:
        text, at = self._text, self._at
        here = f" >|{text[at]}|< " if at < len(text) else ""
        marked = f"{text[max(0, at - 200) : at]}{here}{text[at + 1 : at + 200]}"
        return errors.InvalidArgument(f"filter [{marked}], position {at}: {what}")
