"""The manual pages and the example configuration, made of the parsers and of the table of keys: what these do not say
is in neither. `python packaging/manual.py DIRECTORY` writes them there.
"""

import datetime
import sys
import textwrap
import types
import typing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec

from ctr import cli, grammar
from daemon import command, config, settings, upkeep
from spec.version import VERSION

NOTES = {
    "ctr": (
        ("EXIT STATUS", "That of the container or process where there is one; else 0, 1 for an error, 2 for a wrong "
         "usage and 130 when interrupted."),
        ("ENVIRONMENT", "HOLDD_ADDRESS and HOLDD_NAMESPACE stand in for --address and --namespace; TRACEPARENT makes "
         "calls part of a trace."),
        ("FILES", "/run/holdd/holdd.sock: the daemon's socket.\n~/.docker/config.json: credentials for registries."),
    ),
    "holdd": (
        ("SIGNALS", "SIGTERM and SIGINT end the daemon; what runs, runs on, and is found again by the next one. On "
         "SIGHUP it reads its configuration again."),
        ("SERVICE MANAGER", "Where NOTIFY_SOCKET is set, the daemon tells of READY, RELOADING and STOPPING, and beats "
         "the watchdog that WATCHDOG_USEC asks for. Sockets handed over by LISTEN_FDS take the place of address."),
        ("EXIT STATUS", "0 after a signal, 1 for an error, 2 for a wrong usage, 65 when what is stored is damaged and "
         "a start again will not help. holdd fsck: 0 no fault, 1 faults, 2 it could not be done."),
        ("ENVIRONMENT", "HTTP_PROXY, HTTPS_PROXY and NO_PROXY are for registries; OTEL_EXPORTER_OTLP_ENDPOINT and its "
         "like are for traces."),
        ("FILES", "/etc/holdd/config.toml, /etc/holdd/conf.d/*.toml: the configuration.\n/etc/holdd/certs.d: "
         "registries.\n/var/lib/holdd: what is stored.\n/run/holdd: what runs."),
    ),
}  # fmt: skip
SEE_ALSO = {"ctr": "holdd(8)", "holdd": "ctr(8), holdd-config.toml(5), runc(8)", "holdd-config.toml": "holdd(8)"}
EXAMPLES = '''
# [runtimes.crun]
# path = "crun"

# [proxy_plugins.mine]
# type = "snapshot"
# address = "/run/mine.sock"

# [stream_processors.mine]
# accepts = ["application/vnd.oci.image.layer.v1.tar+mine"]
# returns = "application/vnd.oci.image.layer.v1.tar"
# path = "/usr/local/bin/unmine"
'''


def pages(date):
    """The pages by their file names, as roff text in the macros of man(7)."""
    texts = {
        "ctr.8": ("the bare command line of holdd", _commands("ctr", ctr())),
        "holdd.8": ("the container daemon", _commands("holdd", holdd())),
        "holdd-config.toml.5": ("the configuration of holdd", _configuration()),
    }
    return {file: _page(*file.rsplit(".", 1), date, says, text) for file, (says, text) in texts.items()}


def ctr():
    """The grammar of all of ctr."""
    nouns = [grammar.command(cli.command(noun)[1], (noun.name, *noun.aliases), noun.help) for noun in cli.NOUNS]
    return grammar.command(cli.parser(), ("ctr",), "")._replace(arguments=(), commands=tuple(nouns))


def holdd():
    """The grammar of all of holdd, its commands for what is stored included."""
    daemon = grammar.command(command.parser(), ("holdd",), "")
    return daemon._replace(commands=daemon.commands + grammar.command(upkeep.parser(), ("holdd",), "").commands)


def example():
    """A configuration file that changes nothing: every key as a comment, with what it means."""
    lines = [f"# holdd {VERSION}: what is commented out is the default. See holdd-config.toml(5)."]
    for path, section in sections():
        own = {key: value for key, value in settings.plain(section).items() if not isinstance(value, dict)}
        if path and own:
            lines += ["", *(f"# {line}" for line in _said(type(section))), f"# [{settings.dotted(path)}]"]
        lines += [f"# {line}" for line in settings.dump(own)]
    return "\n".join(lines) + "\n" + EXAMPLES


def sections():
    """Every table that there is by default, with its path."""
    found = [((), config.Config())]
    for path, section in found:
        for field in msgspec.structs.fields(section):
            inner = getattr(section, field.name)
            if isinstance(inner, settings.Section):
                found.append(((*path, field.encode_name), inner))
    return found


def _commands(name, whole):
    text = [".SH SYNOPSIS", *_synopsis((name,), whole)]
    text += [".SH OPTIONS", *_options(whole)]
    text += [".SH COMMANDS"]
    for each in whole.commands:
        text += _described((name,), each)
    return text


def _described(path, command):
    path = (*path, command.names[0])
    text = [f".SS {_escape(' '.join(path[1:]))}", *_synopsis(path, command), ".PP"]
    aliases = f" Also: {', '.join(command.names[1:])}." if command.names[1:] else ""
    text += [*_text(f"{_sentence(command.help)}{aliases}"), *_options(command)]
    for argument in command.arguments:
        if argument.help:
            text += [".TP", f"\\fI{_escape(argument.value)}\\fR", *_text(_sentence(argument.help))]
    for inner in command.commands:
        text += _described(path, inner)
    return text


def _synopsis(path, command):
    words = [f"\\fB{_escape(' '.join(path))}\\fR"]
    words += [_usage(flag) if flag.required else f"[{_usage(flag)}]" for flag in command.flags]
    if command.commands:
        words.append("\\fICOMMAND\\fR ...")
    forms = {"": "{}", "?": "[{}]", "*": "[{}...]", "+": "{}...", "...": "[{}...]"}
    words += [forms[each.arity].format(f"\\fI{_escape(each.value)}\\fR") for each in command.arguments]
    if len(words) > 12:
        words = [words[0], "[\\fIOPTION\\fR...]", *(word for word in words[1:] if not word.startswith("[\\fB"))]
    return words


def _usage(flag):
    return f"\\fB{_escape(flag.names[0])}\\fR{_value(flag)}"


def _value(flag):
    return f" \\fI{_escape(flag.value)}\\fR" if flag.value else ""


def _options(command):
    for flag in command.flags:
        if flag.names == ("-h", "--help"):
            continue
        yield ".TP"
        yield ", ".join(f"\\fB{_escape(name)}\\fR" for name in flag.names) + _value(flag)
        yield from _text(_sentence(flag.help)) if flag.help else ["\\&"]


def _configuration():
    text = [".SH DESCRIPTION"]
    text += _text("The file is TOML; absent, every key has its default. A key that it does not have is an error. "
                     "holdd config check finds every mistake, holdd config explain KEY tells where a value was set. "
                     "What takes effect on SIGHUP says so.")  # fmt: skip
    for path, section in sections():
        if _own(type(section)):
            text += _table(settings.dotted(path), path, type(section), section)
    for name, kind in typing.get_type_hints(config.Config, include_extras=True).items():
        if entry := settings.entries_of(kind):
            text += _table(f"{name}.NAME", (name, "NAME"), entry, None)
    return text


def _table(title, path, section, values):
    text = [f".SH {_escape(f'[{title}]') if title else 'TOP LEVEL'}", *_text(" ".join(_said(section)))]
    for field in _own(section):
        default = getattr(values, field.name) if values is not None else field.default
        said = "required" if default is msgspec.NODEFAULT else "".join(settings.dump({"": default}))[5:] or '""'
        reload = "; takes effect on SIGHUP" if config.reloadable((*path, field.encode_name)) else ""
        text += [".TP", f"\\fB{_escape(field.encode_name)}\\fR = \\fI{_escape(said)}\\fR"]
        text += _text(f"{_kind(field.type)}{reload}.")
    return text


def _own(section):
    """The keys that are no tables."""
    return [
        field
        for field in msgspec.structs.fields(section)
        if not settings.section_of(field.type) and not settings.entries_of(field.type)
    ]


def _kind(kind):
    """A type in words."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _bounded(_kind(args[0]), args[1])
    if origin is typing.Literal:
        return f"one of {', '.join(args)}"
    if origin is tuple:
        return f"array, each {_kind(args[0])}"
    if origin is dict:
        return "table of texts"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_kind, args))
    return {bool: "true or false", int: "integer", float: "number", str: "text"}[kind]


def _bounded(kind, meta):
    bounds = [("above", meta.gt), ("from", meta.ge), ("to", meta.le)]
    said = " ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)
    return f"{kind} {said}" if said else kind


def _said(section):
    """What a section's documentation says, if it has its own."""
    return [line.strip() for line in (section.__dict__.get("__doc__") or "").strip().splitlines() if line.strip()]


def _page(name, number, date, says, text):
    head = [
        f'.TH "{_escape(name).upper()}" "{number}" "{date:%Y-%m-%d}" "holdd {VERSION}" "holdd"',
        ".nh", ".ad l",
        ".SH NAME", f"{_escape(name)} \\- {_escape(says)}",
    ]  # fmt: skip
    return "\n".join([*head, *text, *_tail(name)]) + "\n"


def _tail(name):
    for title, says in NOTES.get(name, ()):
        yield f".SH {title}"
        first, *rest = says.split("\n")
        yield from _text(first)
        for paragraph in rest:
            yield ".PP"
            yield from _text(paragraph)
    yield ".SH SEE ALSO"
    yield _escape(SEE_ALSO[name])


def _sentence(text):
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


def _text(says):
    """As lines of running text."""
    return [_escape(line) for line in textwrap.wrap(says, 76)]


def _escape(text):
    text = text.replace("%%", "%").replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    return f"\\&{text}" if text[:1] in (".", "'") else text


def main():
    directory = Path(sys.argv[1])
    for name, text in {**pages(datetime.date.today()), "config.toml": example()}.items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    main()
