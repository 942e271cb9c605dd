"""A registry as the command line names it: flags, certificates, and the credentials that Docker's configuration has.

The daemon never reads the caller's files: what they hold for the registry of the reference is sent with the request,
and for no other. Credential helpers run here, as the caller.
"""

import argparse
import base64
import binascii
import getpass
import json
import os
import re
import subprocess
from collections.abc import Mapping
from typing import Any, NamedTuple

from ctr import output
from spec import errors, reference
from spec.api import transfer

HELPER_S = 60.0
HUB = "https://index.docker.io/v1/"
NO_USER = "<token>"  # what a helper gives as the name when the secret is a refresh token
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


class Login(NamedTuple):
    """An empty `username` with a `secret` is a refresh token; both empty: nobody."""

    username: str = ""
    secret: str = ""


def register(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that asks a registry."""
    parser.add_argument("--user", "-u", default="", metavar="NAME[:PASSWORD]", help="instead of Docker's configuration")
    parser.add_argument("--refresh", default="", metavar="TOKEN", help="a refresh token, instead of a user")
    parser.add_argument("--plain-http", action="store_true", help="speak http")
    parser.add_argument("--skip-verify", "-k", action="store_true", help="take any certificate")
    parser.add_argument("--hosts-dir", default="", metavar="DIR", help="where hosts.toml files are")
    parser.add_argument("--tlscacert", default="", metavar="FILE", help="an authority to trust, in PEM")
    parser.add_argument("--tlscert", default="", metavar="FILE", help="a certificate to show")
    parser.add_argument("--tlskey", default="", metavar="FILE", help="the key of it, if that is another file")
    parser.add_argument("--http-dump", action="store_true", help="requests and answers on standard error, no secrets")
    parser.add_argument("--http-trace", action="store_true", help="what connections do on standard error")


def register_metadata(parser: argparse._ActionsContainer) -> None:
    """Of commands that bring an index: by default it is kept so that it can be pushed again."""
    parser.add_argument("--skip-metadata", action="store_true", help="nothing of an index's other platforms")
    output.accept(parser, "--all-metadata")


def source(args: argparse.Namespace, text: str) -> transfer.Registry:
    """The image `text` in its registry, with all that the flags say."""
    login = _login(args, text)
    return transfer.Registry(
        reference=text,
        username=login.username,
        secret=login.secret,
        hosts_dir=os.path.abspath(args.hosts_dir) if args.hosts_dir else "",
        plain_http=args.plain_http,
        skip_verify=args.skip_verify,
        authorities=_text(args.tlscacert),
        certificate=_text(args.tlscert),
        key=_text(args.tlskey or args.tlscert),
        http_dump=args.http_dump,
        http_trace=args.http_trace,
    )


def _login(args: argparse.Namespace, text: str) -> Login:
    if args.refresh:
        return Login(secret=args.refresh)
    if args.user:
        username, colon, secret = args.user.partition(":")
        return Login(username, secret if colon else getpass.getpass("Password: "))
    return find(reference.parse(text).host)


def find(host: str) -> Login:
    """What Docker's configuration (`$DOCKER_CONFIG/config.json`, else below ~/.docker) has for exactly this host and
    port; of docker.io it goes by several names. FailedPrecondition names a helper that fails."""
    config = _config()
    keys = (HUB, "docker.io", "registry-1.docker.io", "index.docker.io") if host == "docker.io" else (host,)
    helpers = config.get("credHelpers")
    for key in keys:
        helper = helpers.get(key) if isinstance(helpers, dict) else None
        helper = helper or config.get("credsStore")
        if isinstance(helper, str) and helper and (login := _help(helper, key)) != Login():
            return login
    auths = config.get("auths")
    for name, entry in auths.items() if isinstance(auths, dict) else ():
        if (name in keys or _hostname(name) in keys) and isinstance(entry, dict):
            login = _entry(name, entry)
            if login != Login():
                return login
    return Login()


def _hostname(key: str) -> str:
    """Older clients wrote whole addresses. One of another path is for something else."""
    rest = key.removeprefix("https://").removeprefix("http://")
    host, _, path = rest.partition("/")
    return host if path.strip("/") in ("", "v1", "v2") else ""


def _config() -> Mapping[str, Any]:
    directory = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    path = os.path.join(directory, "config.json")
    try:
        with open(path, "rb") as file:
            config = json.load(file)
    except FileNotFoundError:
        return {}
    except PermissionError:
        return {}  # it is not for us
    except ValueError as exc:
        raise errors.InvalidArgument(f"reading {path}: {exc}") from exc
    if not isinstance(config, dict):
        raise errors.InvalidArgument(f"reading {path}: it is no JSON object")
    return config


def _entry(name: str, entry: Mapping[str, Any]) -> Login:
    """`auth` is base64 of NAME:PASSWORD; `identitytoken` a refresh token."""
    if token := _str(entry, "identitytoken"):
        return Login(secret=token)
    if auth := _str(entry, "auth"):
        try:
            username, _, secret = base64.b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as exc:
            raise errors.InvalidArgument(f"docker's configuration: auth of {name} is not what it should be") from exc
        return Login(username, secret.rstrip("\0"))
    return Login(_str(entry, "username"), _str(entry, "password"))


def _help(helper: str, key: str) -> Login:
    """Ask `docker-credential-HELPER` (docker-credential-helpers, the protocol of `get`)."""
    if not _HELPER.fullmatch(helper):
        raise errors.InvalidArgument(f"docker's configuration: {helper[:100]!r} is no name of a credential helper")
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"], input=key, capture_output=True, text=True, timeout=HELPER_S, check=False
        )
    except FileNotFoundError:
        raise errors.FailedPrecondition(f"asking for credentials of {key}: there is no {program}") from None
    except subprocess.TimeoutExpired:
        raise errors.FailedPrecondition(f"asking for credentials of {key}: {program} does not answer") from None
    if done.returncode:
        said = (done.stdout.strip() or done.stderr.strip())[:300]
        if "credentials not found" in said:
            return Login()
        raise errors.FailedPrecondition(f"asking for credentials of {key}: {program}: {said}")
    try:
        answer = json.loads(done.stdout)
        username, secret = _str(answer, "Username"), _str(answer, "Secret")
    except (ValueError, AttributeError):
        raise errors.FailedPrecondition(f"asking for credentials of {key}: {program} gave no credentials") from None
    return Login("" if username == NO_USER else username, secret)


def _str(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _text(path: str) -> str:
    if not path:
        return ""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError as exc:
        raise errors.from_os(exc, f"reading {path}") from exc
