import pytest

from spec import errors, reference

HEX = "a" * 64
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "digest"),
    [
        ("docker.io/library/busybox:latest", "docker.io", "library/busybox", "latest", ""),
        (f"docker.io/library/busybox@{DIGEST}", "docker.io", "library/busybox", "", DIGEST),
        (f"docker.io/library/busybox:1@{DIGEST}", "docker.io", "library/busybox", "1", DIGEST),
        ("localhost:5000/a:b", "localhost:5000", "a", "b", ""),
        ("127.0.0.1:5000/a/b/c:v1.2_3-x", "127.0.0.1:5000", "a/b/c", "v1.2_3-x", ""),
        ("[::1]:5000/a:b", "[::1]:5000", "a", "b", ""),
        ("[fe80::1]/a:b", "[fe80::1]", "a", "b", ""),
        ("ghcr.io/a.b/c__d/e---f/g_h:T", "ghcr.io", "a.b/c__d/e---f/g_h", "T", ""),
        ("r.io/a:" + "t" * 128, "r.io", "a", "t" * 128, ""),
        ("r.io/" + "a" * 250 + ":t", "r.io", "a" * 250, "t", ""),
    ],
)
def test_parse(text, host, repository, tag, digest):
    ref = reference.parse(text)
    assert (ref.host, ref.repository, ref.tag, ref.digest) == (host, repository, tag, digest)
    assert str(ref) == text
    assert ref.locator == f"{host}/{repository}"
    assert ref.object == (digest or tag)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "busybox",
        "busybox:latest",
        "docker.io/",
        "docker.io/library/busybox",
        "docker.io/library/busybox:",
        "docker.io/library/busybox@",
        f"docker.io/library/busybox:@{DIGEST}",
        f"docker.io/library/busybox@{DIGEST[:-1]}",
        f"docker.io/library/busybox@{DIGEST}@{DIGEST}",
        "docker.io/library/busybox@sha256:../../x",
        "docker.io/Library/busybox:t",
        "docker.io/a//b:t",
        "docker.io//a:t",
        "docker.io/../a:t",
        "docker.io/a_/b:t",
        "docker.io/a..b:t",
        "docker.io/a___b:t",
        "docker.io/a:-t",
        "docker.io/a:t:u",
        "docker.io/a:t/b",
        "r.io/a:" + "t" * 129,
        "r.io/" + "a" * 251 + ":t",
        "https://docker.io/a:t",
        "a..b/c:t",
        "-a/c:t",
        "a-/c:t",
        "host:port/c:t",
        "[127:0:0:1]:5000/c:t",
        "[:]/c:t",
        "[::1/c:t",
        "[::1::2]/c:t",
        "host:123456/c:t",
        "user@host/c:t",
        "docker.io/a:t\n",
        "docker.io/a b:t",
        "docker.io/é:t",
        "docker.io/a:t\0",
    ],
)
def test_refused(bad):
    with pytest.raises(errors.InvalidArgument):
        reference.parse(bad)


@pytest.mark.parametrize("piece", ["a", "a/", "a.", "-", ":", "@", "a_", "[", "a__"])
@pytest.mark.parametrize("read", [reference.parse, reference.normalize])
def test_a_megabyte_is_refused_by_its_length(piece, read):
    with pytest.raises(errors.InvalidArgument) as caught:
        read("r.io/" + piece * (1 << 20))
    assert "too long" in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1", "docker.io/library/busybox:1"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        ("a/b", "docker.io/a/b:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/a/b:t", "docker.io/a/b:t"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        ("r.io/a:t", "r.io/a:t"),
        ("Host/a", "Host/a:latest"),
        ("[::1]:80/a", "[::1]:80/a:latest"),
    ],
)
def test_normalize(text, expected):
    assert str(reference.normalize(text)) == expected
    assert str(reference.normalize(expected)) == expected


@pytest.mark.parametrize("bad", ["", "/", "Busybox", "a/", ":t", "@", "docker.io/"])
def test_what_cannot_be_normalized(bad):
    with pytest.raises(errors.InvalidArgument):
        reference.normalize(bad)
