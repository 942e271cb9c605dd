"""What registries write into headers and bodies, well and badly."""

import pytest

from spec import errors
from spec.oci import distribution
from spec.oci.distribution import Challenge, ContentRange

BEARER = Challenge(scheme="bearer", parameters={"realm": "https://auth.example/token", "service": "s"})


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer realm="https://auth.example/token",service="s"', [BEARER]),
        ('bearer REALM = "https://auth.example/token" , Service="s"', [BEARER]),
        ("Bearer realm=https://auth.example/token,service=s", [BEARER]),
        ('Basic realm="a, b", Bearer realm="https://auth.example/token",service="s"',
         [Challenge(scheme="basic", parameters={"realm": "a, b"}), BEARER]),
        ('Negotiate, Bearer realm="https://auth.example/token",service="s"', [Challenge(scheme="negotiate"), BEARER]),
        ('Negotiate YWJj==, Bearer realm="https://auth.example/token",service="s"',
         [Challenge(scheme="negotiate"), BEARER]),
        (',, Basic realm="z"', [Challenge(scheme="basic", parameters={"realm": "z"})]),
        ('Bearer realm="a\\"b\\\\c"', [Challenge(scheme="bearer", parameters={"realm": 'a"b\\c'})]),
        ('Bearer realm="",scope="repository:a:pull repository:b:pull"',
         [Challenge(scheme="bearer", parameters={"realm": "", "scope": "repository:a:pull repository:b:pull"})]),
        ("Basic", [Challenge(scheme="basic")]),
        ('Bearer realm="never ends', [Challenge(scheme="bearer")]),
        ('="x"', []),
        ("", []),
    ],
)  # fmt: skip
def test_challenges(header, expected):
    assert distribution.challenges([header]) == expected


def test_challenges_of_several_headers():
    assert [c.scheme for c in distribution.challenges(['Basic realm="a"', 'Bearer realm="b"'])] == ["basic", "bearer"]


@pytest.mark.parametrize("header", ['x="' + "\\" * 60_000, "Bearer " + 'a="b",' * 20_000, "a " * 50_000, "," * 60_000])
def test_challenges_of_hostile_headers_end(header):
    distribution.challenges([header])


@pytest.mark.parametrize(
    ("body", "value", "seconds"),
    [
        (b'{"token":"a","expires_in":300}', "a", 300),
        (b'{"access_token":"b","expires_in":"300"}', "b", 300),
        (b'{"token":"a","access_token":"b"}', "a", 0),
        (b'{"token":null,"access_token":"b","refresh_token":null,"issued_at":"2026"}', "b", 0),
    ],
)
def test_tokens(body, value, seconds):
    answer = distribution.token(body)
    assert (answer.value, answer.expires_in) == (value, seconds)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"<html>", b"\xff", b"[" * 100_000, b"{}", b'{"token":""}', b'{"token":"secret\\r\\nX: y"}',
     b'{"token":"secret two"}', b'{"token":"secret\\u00e9"}', b'{"token":"secret","expires_in":1e400}'],
)  # fmt: skip
def test_what_is_no_token_is_refused_and_not_shown(body):
    with pytest.raises(errors.DataLoss) as raised:
        distribution.token(body)
    assert "secret" not in str(raised.value)


def test_content_range():
    assert distribution.content_range("bytes 5-9/10") == ContentRange(first=5, last=9, total=10)
    assert distribution.content_range("bytes 0-0/*") == ContentRange(first=0, last=0)


@pytest.mark.parametrize(
    "header",
    [
        *("", "bytes 9-5/10", "bytes 5-9/9", "bytes */10", "items 1-2/3"),
        *("bytes \u0663-\u0664/\u0665", f"bytes 0-{'9' * 30}/*"),
    ],
)
def test_content_ranges_that_are_none(header):
    with pytest.raises(errors.DataLoss):
        distribution.content_range(header)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"errors":[{"code":"DENIED","message":"no\\u001b[31m entry"}]}', "DENIED: no [31m entry"),
        (b'{"errors":[{"code":"A"},{"code":"B","message":"b","detail":{"x":1}}]}', "A; B: b"),
        (b'{"errors":[{"code":"<b>"}]}', ""),
        (b'{"errors":null}', ""),
        (b'{"details":"secret"}', ""),
        (b"<html>secret</html>", ""),
    ],
)
def test_problems(body, text):
    assert distribution.problems(body) == text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@h:1/p?sig=secret&empty=&ns=docker.io#f", "https://h:1/p?empty=&ns=docker.io&sig=REDACTED"),
        ("https://h/p", "https://h/p"),
        ("https://h/p?b=1&a=2&a=3", "https://h/p?a=REDACTED&a=REDACTED&b=REDACTED"),
        ("https://h/p?a&b=", "https://h/p?a=&b="),
        ("https://h/p?ns=a.example:5000", "https://h/p?ns=a.example%3A5000"),
        ("https://user@h/p", "https://h/p"),
        ("https://h/p#sig=secret", "https://h/p"),
        ("/p?sig=secret", "/p?sig=REDACTED"),
        ("/p?\ud800=\ud800", "/p?%3F=REDACTED"),
        ("", ""),
        ("http://[::1", "(malformed url)"),
    ],
)
def test_urls_in_messages_show_no_secret(url, shown):
    assert distribution.redacted(url) == shown


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        (['299 - "this registry moves"'], ["this registry moves"]),
        (['299 - "one"', '299 - "two"'], ["one", "two"]),
        (['299 - "one", 299 - "two"'], ["one", "two"]),
        (['299 - "one" "Tue, 24 Nov 2026 00:00:00 GMT", 299 - "two"'], ["one", "two"]),
        ([r'299 - "a \"quoted\" \\ word"'], ['a "quoted" \\ word']),
        (['299 - "a, b"'], ["a, b"]),
        (['299 - ""'], [""]),
        (['299 - "no \x1b[31m colours"'], ["no  [31m colours"]),
        (['299 - "x' + "y" * 10_000 + '"'], ["x" + "y" * 4095]),
        (['299 - "good", 299 - bad, 299 - "lost"'], ["good"]),
        *(([text], []) for text in (
            "", "299", "299 -", '299 "no agent"', '299 - "never ends', "299 - plain", '299 agent "text"',
            '199 - "text"', '2990 - "text"', ' 299 - "text"', "299 - 'text'", '299 -  "text"', '299 - "text" more',
            "x" * 60_000,
        )),
    ],
)  # fmt: skip
def test_warnings(headers, shown):
    assert distribution.warnings(headers) == shown


def test_paths_and_scope():
    assert distribution.manifest_path("a/b", "1") == "a/b/manifests/1"
    assert distribution.blob_path("a/b", "sha256:0") == "a/b/blobs/sha256:0"
    assert distribution.pull_scope("a/b") == "repository:a/b:pull"


@pytest.mark.parametrize(
    ("scopes", "merged"),
    [
        ((), ""),
        (("repository:a:pull",), "repository:a:pull"),
        (("repository:a:push,pull", "repository:a:pull,delete"), "repository:a:delete,pull,push"),
        (("repository:b:pull repository:a:pull", ""), "repository:a:pull repository:b:pull"),
        (("repository:host:5000/a:pull",), "repository:host:5000/a:pull"),
        (("odd",), "odd"),
    ],
)
def test_scopes_are_merged(scopes, merged):
    assert distribution.merged(*scopes) == merged


def test_scopes_of_a_push():
    assert distribution.push_scope("a") == "repository:a:pull,push"
    assert distribution.push_scope("b", "a") == "repository:a:pull repository:b:pull,push"


@pytest.mark.parametrize(
    ("label", "repository", "sources"),
    [("", "a", "a"), ("a", "a", "a"), ("b", "a", "a,b"), ("b,,a", "c", "a,b,c"), ("b,b", "b", "b")],
)
def test_sources(label, repository, sources):
    assert distribution.sources(label, repository) == sources


@pytest.mark.parametrize(
    ("label", "candidate"),
    [
        ("", ""),
        ("team/app/one", ""),
        ("other,team/x,team/app/two", "team/app/two"),
        ("team/x,team/y", "team/y"),
        ("a,b", "b"),
        ("team/app/one,a", "a"),
    ],
)
def test_mount_candidates(label, candidate):
    assert distribution.mount_candidate(label, "team/app/one") == candidate


@pytest.mark.parametrize(
    ("header", "size"), [("0-0", 0), ("", 0), ("0-99", 100), ("bytes=0-99", 100), ("5-9", 0), ("0-" + "9" * 30, 0)]
)
def test_what_an_upload_received(header, size):
    assert distribution.received(header) == size
