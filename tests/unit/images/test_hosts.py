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


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True), ("localhost:5000", True), ("127.0.0.1", True), ("127.0.0.1:5000", True),
        ("127.0.0.254", True), ("127.255.255.254:80", True), ("[::1]", True), ("[::1]:5000", True),
        ("127.256.0.1", False), ("128.0.0.1", False), ("localhost.example", False),
        ("example.com", False), ("127.example.com", False), ("[::2]:5000", False), ("10.0.0.1:5000", False),
    ],
)  # fmt: skip
def test_what_is_this_machine(host, local):
    assert hosts.is_local(host) is local


@pytest.mark.parametrize(
    ("registry", "options", "base", "fallback"),
    [
        ("localhost:5000", {}, "https://localhost:5000", "http://localhost:5000"),
        ("localhost:8080", {}, "https://localhost:8080", "http://localhost:8080"),
        ("127.0.0.254:5000", {}, "https://127.0.0.254:5000", "http://127.0.0.254:5000"),
        ("[::1]:5000", {}, "https://[::1]:5000", "http://[::1]:5000"),
        ("localhost:80", {}, "http://localhost:80", ""),
        ("localhost:443", {}, "https://localhost:443", ""),
        ("localhost", {}, "https://localhost", ""),
        ("127.0.0.1", {}, "https://127.0.0.1", ""),
        ("[::1]", {}, "https://[::1]", ""),
        ("example.com", {}, "https://example.com", ""),
        ("example.com:5000", {}, "https://example.com:5000", ""),
        ("example.com", {"plain_http": True}, "http://example.com", ""),
        ("example.com", {"plain_http": True, "skip_verify": True}, "https://example.com", "http://example.com"),
        ("example.com:5000", {"plain_http": True, "trust": hosts.Trust(authorities="x")},
         "https://example.com:5000", "http://example.com:5000"),
        ("example.com:80", {"plain_http": True, "skip_verify": True}, "http://example.com:80", ""),
    ],
)  # fmt: skip
def test_which_scheme_comes_first(registry, options, base, fallback):
    (found,) = hosts.lookup(registry, **options)
    assert (found.base.removesuffix("/v2"), found.fallback.removesuffix("/v2")) == (base, fallback)


def test_an_authority_that_was_given_is_asked_for_on_this_machine_too():
    (found,) = hosts.lookup("localhost:5000", trust=hosts.Trust(authorities="x"))
    assert not found.skip_verify


@pytest.mark.parametrize(
    ("present", "registry", "found"),
    [
        (["a.example_5000_", "a.example:5000", "_default"], "a.example:5000", "a.example_5000_"),
        (["a.example:5000", "_default"], "a.example:5000", "a.example:5000"),
        (["a.example", "_default"], "a.example:5000", "_default"),
        (["a.example", "_default"], "a.example", "a.example"),
        (["b.example"], "a.example", None),
    ],
)
def test_which_directory_counts(tmp_path, present, registry, found):
    for name in present:
        (tmp_path / "two" / name).mkdir(parents=True)
        (tmp_path / "two" / name / "hosts.toml").write_text(f'server = "https://{name.strip("_")}.found/x"\n')
    seen = [host.base for host in hosts.lookup(registry, f"{tmp_path}/one:{tmp_path}/two")]
    assert seen == ([f"https://{found.strip('_')}.found/x/v2"] if found else [f"https://{registry}/v2"])


def test_dockers_certs_d(tmp_path):
    directory = tmp_path / "a.example"
    directory.mkdir()
    for name in ("b.crt", "a.crt", "me.cert", "me.key", "other.txt"):
        (directory / name).touch()
    (found,) = hosts.lookup("a.example", str(tmp_path))
    assert found.ca == [f"{directory}/a.crt", f"{directory}/b.crt"]
    assert found.client == [(f"{directory}/me.cert", f"{directory}/me.key")]
    (directory / "hosts.toml").touch()
    assert hosts.lookup("a.example", str(tmp_path)) == [found]
    (directory / "me.key").unlink()
    with pytest.raises(errors.InvalidArgument, match=r"me\.cert has no me\.key"):
        hosts.lookup("a.example", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10), ("1m30s", 90), ("500ms", 0.5), ("1.5h", 5400), ("", 0), ("5us", 5e-6)]
)
def test_dial_timeouts(tmp_path, text, seconds):
    directory = written(tmp_path, f'[host."https://m.example"]\ndial_timeout = "{text}"\n')
    assert hosts.lookup("example.org", directory)[0].dial_s == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["10", "s", "-1s", "1d", "1s "])
def test_a_dial_timeout_that_is_none(tmp_path, text):
    directory = written(tmp_path, f'dial_timeout = "{text}"\n')
    with pytest.raises(errors.InvalidArgument, match="dial_timeout"):
        hosts.lookup("example.org", directory)


def test_a_path_that_is_given_whole_and_http_with_certificates(tmp_path):
    text = '[host."https://m.example/a/"]\noverride_path = true\n[host."http://p.example:5000"]\nskip_verify = true\n'
    one, two, _ = hosts.lookup("example.org", written(tmp_path, text))
    assert one.base == "https://m.example/a"
    assert (two.base, two.fallback) == ("https://p.example:5000/v2", "http://p.example:5000/v2")
