"""The plain Python twin of `pyx.cgroup.Reader`: opens, reads and parses every file each time."""

from pyx import cgroup


def read(files, values):
    """What a Reader of the same arguments reads."""
    found = [None] * values
    for paths, form, keys, scale in files:
        text = first(paths)
        if text:
            for value, number in parsed(text, form, dict_of(keys), scale):
                found[value] = number if found[value] is None or form != cgroup.LINES else found[value] + number
    return tuple(found)


def first(paths):
    for path in paths:
        try:
            with open(path, "rb") as file:
                return file.read().decode()
        except OSError:
            continue
    return None


def dict_of(keys):
    wanted = {}
    for key, value in keys:
        wanted.setdefault(key, []).append(value)
    return wanted


def parsed(text, form, keys, scale):
    """Pairs of an index among the values, and what is at it."""
    only = keys.get("", [0])[0]
    if form == cgroup.NUMBER:
        yield only, number(text.split()[0], scale)
    elif form == cgroup.LINES:
        for line in text.splitlines():
            for key, value in pairs(line):
                for wanted in keys.get(key, ()):
                    yield wanted, number(value, scale)
    elif form == cgroup.ROWS:
        yield only, tuple(rows(text, scale))
    elif form == cgroup.NUMBERS:
        yield only, tuple(number(word, scale) for word in text.split())
    else:
        yield only, text.removesuffix("\n")


def number(word, scale):
    if word == "max":
        return cgroup.MAX
    whole, point, part = word.partition(".")
    return (int(whole) * 100 + int(part[:2].ljust(2, "0")) if point else int(whole)) * scale


def pairs(line):
    label, *words = line.split(" ")
    if len(words) == 1 and "=" not in words[0]:
        yield label, words[0]
        return
    for word in words:
        name, _, value = word.partition("=")
        yield f"{label} {name}", value


def rows(text, scale):
    for line in text.splitlines():
        label, *words = line.split(" ")
        if label == "Total":
            continue
        if "=" in line:
            for word in words:
                name, _, value = word.partition("=")
                yield label, name, number(value, scale)
        elif len(words) == 2:
            yield label, words[0], number(words[1], scale)
        elif words:
            yield label, "", number(words[0], scale)
