"""As much of PromQL as a dashboard needs, over scrapes of ours: to see that each query finds something."""

import re

from tests import exposed

TOKEN = re.compile(
    r'\s*("(?:[^"\\]|\\.)*"|=~|!~|!=|\d+(?:\.\d+)?(?:e\d+)?[smh]?|[a-zA-Z_:][a-zA-Z0-9_:]*|[-+*/(){}\[\],=])'
)
AGGREGATES = {"sum": sum, "max": max, "min": min}
OPERATORS = {
    "+": lambda one, other: one + other,
    "-": lambda one, other: one - other,
    "*": lambda one, other: one * other,
    "/": lambda one, other: one / other if other else float("nan"),
}


class Query:
    """`evaluate` gives pairs of labels and a value, by two scrapes that are `seconds` apart."""

    def __init__(self, text):
        self._tokens = []
        at = 0
        while at < len(text.rstrip()):
            found = TOKEN.match(text, at)
            assert found, f"{text[at:]!r} is no PromQL"
            self._tokens.append(found[1])
            at = found.end()

    def evaluate(self, before, after, seconds):
        self._scrapes = [_samples(before), _samples(after)]
        self._seconds = seconds
        self._left = self._tokens.copy()
        result = self._or()
        assert not self._left, f"{self._left} is too much"
        return result

    def _take(self, *wanted):
        if self._left and (self._left[0] in wanted or not wanted):
            return self._left.pop(0)
        return None

    def _need(self, token):
        assert self._take(token), f"{token} is missing before {self._left}"

    def _or(self):
        found = self._binary(("+", "-"), lambda: self._binary(("*", "/"), self._one))
        while self._take("or"):
            other = self._binary(("+", "-"), lambda: self._binary(("*", "/"), self._one))
            known = {frozenset(labels.items()) for labels, _ in found}
            found += [(labels, value) for labels, value in other if frozenset(labels.items()) not in known]
        return found

    def _binary(self, operators, part):
        found = part()
        while operator := self._take(*operators):
            found = _joined(OPERATORS[operator], found, part())
        return found

    def _one(self):
        if self._take("("):
            found = self._or()
            self._need(")")
            return found
        word = self._take()
        if word[0].isdigit():
            return float(word)
        if word in AGGREGATES:
            return self._aggregate(AGGREGATES[word])
        if self._left[:1] == ["("]:
            return self._function(word)
        return self._selected(word, self._scrapes[1], self._matchers())

    def _aggregate(self, work):
        by = self._labels() if self._take("by") else ()
        self._need("(")
        groups = {}
        for labels, value in self._or():
            groups.setdefault(tuple((label, labels[label]) for label in by), []).append(value)
        self._need(")")
        return [(dict(labels), work(values)) for labels, values in groups.items()]

    def _labels(self):
        self._need("(")
        found = [self._take()]
        while self._take(","):
            found.append(self._take())
        self._need(")")
        return found

    def _function(self, name):
        self._need("(")
        if name == "histogram_quantile":
            self._one()
            self._need(",")
            found = [(labels, value) for labels, value in self._or() if labels["le"] == "+Inf"]
        else:
            assert name in ("rate", "increase"), f"{name} is not known"
            found = self._change(self._seconds if name == "rate" else 1)
        self._need(")")
        return found

    def _change(self, by):
        metric, matchers = self._take(), self._matchers()
        self._need("[")
        assert re.fullmatch(r"\d+[smh]", self._take())
        self._need("]")
        then, now = (self._selected(metric, samples, matchers) for samples in self._scrapes)
        before = {frozenset(labels.items()): value for labels, value in then}
        return [(labels, (value - before.get(frozenset(labels.items()), 0)) / by) for labels, value in now]

    def _matchers(self):
        found = []
        if self._take("{"):
            while not self._take("}"):
                label, operator, value = self._take(), self._take("=", "!=", "=~", "!~"), self._take()
                assert operator, f"{label} is no matcher"
                assert value[0] == '"', f"{label} {operator} {value} is no matcher"
                found.append((label, operator, value[1:-1]))
                self._take(",")
        return found

    def _selected(self, metric, samples, matchers):
        return [(dict(labels), value) for labels, value in samples.get(metric, ()) if _match(dict(labels), matchers)]


def _match(labels, matchers):
    for label, operator, wanted in matchers:
        assert label in labels, f"there is no label {label}"
        same = re.fullmatch(wanted, labels[label]) is not None if "~" in operator else labels[label] == wanted
        if same is operator.startswith("!"):
            return False
    return True


def _joined(operator, one, other):
    if isinstance(other, float):
        return [(labels, operator(value, other)) for labels, value in one]
    values = {frozenset(labels.items()): value for labels, value in other}
    pairs = [(labels, value, values.get(frozenset(labels.items()))) for labels, value in one]
    return [(labels, operator(value, match)) for labels, value, match in pairs if match is not None]


def _samples(text):
    samples = {}
    for family in exposed.parse(text).values():
        for (name, labels), value in family.samples.items():
            samples.setdefault(name, []).append((labels, value))
    return samples
