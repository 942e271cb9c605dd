"""Credentials of Docker's configuration: for exactly the registry that is asked, and from helpers."""

import base64
import json
import sys

import pytest

from ctr import registry
from ctr.registry import Login
from spec import errors

PAIR = base64.b64encode(b"me:se:cret").decode()
ME = Login("me", "se:cret")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(text):
        (tmp_path / "config.json").write_text(text if isinstance(text, str) else json.dumps(text))

    return write


def helper(tmp_path, name, body):
    path = tmp_path / f"docker-credential-{name}"
    head = f"#!{sys.executable}\nimport sys\nassert sys.argv[1:] == ['get']\nhost = sys.stdin.read()"
    path.write_text(f"{head}\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("key", "host", "found"),
    [
        ("a.example", "a.example", True),
        ("a.example:5000", "a.example:5000", True),
        ("https://a.example", "a.example", True),
        ("https://a.example/v2/", "a.example", True),
        ("https://a.example/other", "a.example", False),
        ("a.example", "a.example:5000", False),
        ("a.example:5000", "a.example", False),
        ("a.example", "sub.a.example", False),
        ("a.example", "a.example.evil", False),
        ("https://index.docker.io/v1/", "docker.io", True),
        ("registry-1.docker.io", "docker.io", True),
        ("docker.io", "docker.io", True),
        ("docker.io", "quay.io", False),
        ("https://index.docker.io/v1/", "index.docker.io.evil", False),
    ],
)
def test_credentials_are_for_exactly_their_registry(config, key, host, found):
    """docker CVE-2021-41092."""
    config({"auths": {key: {"auth": PAIR}}})
    assert registry.find(host) == (ME if found else Login())


@pytest.mark.parametrize(
    ("entry", "login"),
    [
        ({"auth": PAIR}, ME),
        ({"username": "me", "password": "p"}, Login("me", "p")),
        ({"identitytoken": "t", "auth": PAIR}, Login("", "t")),
        ({}, Login()),
        ({"auth": 5}, Login()),
    ],
)
def test_entries(config, entry, login):
    config({"auths": {"a": entry}})
    assert registry.find("a") == login


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": {"a": {"auth": "%%%"}}}'])
def test_a_configuration_that_is_wrong_is_said_to_be(config, text):
    config(text)
    with pytest.raises(errors.InvalidArgument):
        registry.find("a")


@pytest.mark.parametrize("text", ["{}", '{"auths": null}', '{"auths": {}, "credHelpers": {"b": "x"}}'])
def test_nothing_to_find(config, text):
    config(text)
    assert registry.find("a") == Login()


def test_no_configuration_at_all(config):
    assert registry.find("a") == Login()


def test_helpers_come_before_the_store_and_that_before_what_is_written(config, tmp_path):
    for name in ("one", "store"):
        helper(tmp_path, name, f"print('{{\"Username\":\"{name}\",\"Secret\":\"' + host + '\"}}')")
    config({"credHelpers": {"a": "one"}, "credsStore": "store", "auths": {"a": {"auth": PAIR}}})
    assert registry.find("a") == Login("one", "a")
    assert registry.find("b") == Login("store", "b")


def test_a_store_that_has_none(config, tmp_path):
    helper(tmp_path, "store", "print('credentials not found in native keychain'); sys.exit(1)")
    config({"credsStore": "store", "auths": {"a": {"auth": PAIR}}})
    assert registry.find("a") == ME


def test_a_token_of_a_helper(config, tmp_path):
    helper(tmp_path, "x", "print('{\"Username\":\"<token>\",\"Secret\":\"t\"}')")
    config({"credHelpers": {"a": "x"}})
    assert registry.find("a") == Login("", "t")


@pytest.mark.parametrize(
    ("name", "body", "error"),
    [
        ("gone", None, errors.FailedPrecondition),
        ("x", "sys.exit('locked')", errors.FailedPrecondition),
        ("x", "print('no json')", errors.FailedPrecondition),
        ("x", "print('[]')", errors.FailedPrecondition),
        ("../x", None, errors.InvalidArgument),
    ],
)
def test_helpers_that_fail_are_named(config, tmp_path, name, body, error):
    if body is not None:
        helper(tmp_path, name, body)
    config({"credHelpers": {"a": name}})
    with pytest.raises(error, match=name):
        registry.find("a")
