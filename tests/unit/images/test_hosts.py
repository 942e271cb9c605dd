"""hosts.toml, the default rules, and which addresses are this machine's."""

import pytest

from daemon.images import hosts
from spec import errors


def written(tmp_path, text, name="example.org"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "hosts.toml").write_text(text)
    return str(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0",
     "0.0.0.0", "169.254.169.254", "::1", "::", "fe80::1%eth0", "::ffff:127.0.0.1", "127.0.0.1."],
)  # fmt: skip
def test_inward_however_it_is_written(name):
    assert hosts.is_inward(name)


@pytest.mark.parametrize("name", ["10.0.0.1", "192.168.1.1", "172.16.0.1", "8.8.8.8", "a.example", "fd00::1", "127.a"])
def test_a_private_network_is_not_inward(name):
    assert not hosts.is_inward(name)


def test_defaults():
    (hub,) = hosts.lookup("docker.io")
    assert (hub.base, hub.fallback) == ("https://registry-1.docker.io/v2", "")
    (local,) = hosts.lookup("127.0.0.1:5000")
    assert (local.base, local.fallback) == ("https://127.0.0.1:5000/v2", "http://127.0.0.1:5000/v2")
    (plain,) = hosts.lookup("example.org", plain_http=True)
    assert plain.base == "http://example.org/v2"


def test_mirrors_first_and_the_server_last(tmp_path):
    directory = written(
        tmp_path,
        'server = "https://own.example"\n[host."https://mirror.example"]\ncapabilities = ["pull"]\n'
        'client = [["c.pem", "k.pem"], "both.pem"]\nca = "ca.pem"\n'
        '[host."https://mirror.example".header]\nx = ["a", "b"]\n',
    )
    mirror, own = hosts.lookup("example.org", directory)
    assert (mirror.base, mirror.mirror, mirror.capabilities) == ("https://mirror.example/v2", True, ["pull"])
    folder = f"{directory}/example.org"
    assert list(mirror.client) == [(f"{folder}/c.pem", f"{folder}/k.pem"), (f"{folder}/both.pem", f"{folder}/both.pem")]
    assert mirror.ca == [f"{folder}/ca.pem"]
    assert mirror.headers == {"x": "a, b"}
    assert (own.base, own.mirror) == ("https://own.example/v2", False)


@pytest.mark.parametrize(
    "text", ["server = 1", "[host", 'nonsense = "x"', '[host."ftp://a"]', 'capabilities = ["fly"]']
)
def test_a_file_that_is_wrong_is_named(tmp_path, text):
    directory = written(tmp_path, text)
    with pytest.raises(errors.InvalidArgument, match=r"example\.org/hosts\.toml"):
        hosts.lookup("example.org", directory)


def test_skip_verify_counts_with_a_file_too(tmp_path):
    (tmp_path / "a.example").mkdir()
    (tmp_path / "a.example/hosts.toml").write_text('[host."https://mirror.example"]\n')
    mirror, own = hosts.lookup("a.example", str(tmp_path), skip_verify=True)
    assert not mirror.skip_verify
    assert own.skip_verify
