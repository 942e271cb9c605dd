"""Headers and bodies that no registry would send: each is read, soon, as something or as one of our errors."""

import contextlib
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.images import hosts, transport
from spec import errors, reference
from spec.oci import distribution

MORE = int(os.environ.get("HOLDD_FUZZ", "1"))  # times as many examples, by chance then and not always the same

PIECES = st.sampled_from(
    ["Bearer", "Basic", "realm", "scope", "299", " - ", '"', "\\", "=", ",", " ", "bytes ", "0-", "-", "/", "*",
     "9" * 19, "http://", "https://", "127.1", "[::1]", "@", ":", "?", "#", "%", "\0", "\x1b", "\u0663", "sha256:",
     "a", "A", "}{", '{"token":', '{"errors":[', "null", "[", "..", "\ud800", "\n"]
)  # fmt: skip
TEXT = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=30).map("".join))
READERS = {
    "challenges": lambda text: distribution.challenges([text]),
    "warnings": lambda text: distribution.warnings([text]),
    "content range": distribution.content_range,
    "received": distribution.received,
    "redacted": distribution.redacted,
    "token": lambda text: distribution.token(text.encode("utf-8", "surrogatepass")),
    "problems": lambda text: distribution.problems(text.encode("utf-8", "surrogatepass")),
    "merged": distribution.merged,
    "mount candidate": lambda text: distribution.mount_candidate(text, "a/b"),
    "sources": lambda text: distribution.sources(text, "a/b"),
    "reference": reference.parse,
    "a reference as people write it": reference.normalize,
    "redirect": lambda text: transport.joined("https://a.example/v2/", text),
    "inward": hosts.is_inward,
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_read_of_a_registry(name):
    @settings(max_examples=100 * MORE, deadline=None, derandomize=MORE == 1)
    @given(TEXT)
    def check(text):
        with contextlib.suppress(errors.Error):
            READERS[name](text)

    check()


def test_a_redirect_leads_somewhere_or_nowhere():
    """What passes is an address of http."""

    @settings(max_examples=200 * MORE, deadline=None, derandomize=MORE == 1)
    @given(TEXT)
    def check(text):
        try:
            url = transport.joined("https://a.example/v2/", text)
            transport.check_hop("GET", transport.origin("https://a.example"), url)
        except errors.Error:
            return
        assert url.startswith("https://")
        assert not hosts.is_inward(transport.origin(url)[1])

    check()
