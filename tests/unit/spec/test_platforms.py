import pytest

from spec import errors, platforms
from spec.oci.image import Platform


def linux(architecture, variant="", **more):
    return Platform(os="linux", architecture=architecture, variant=variant, **more)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
        ("i686", "linux/386"),
        ("riscv64", "linux/riscv64"),
        ("s390x", "linux/s390x"),
    ],
)
def test_default_of_a_machine(machine, expected):
    assert platforms.format(platforms.default(machine)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", "linux/amd64"),
        ("Linux/X86_64", "linux/amd64"),
        ("linux/x86-64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/amd64/3", "linux/amd64/v3"),
        ("macos/arm64", "darwin/arm64"),
        ("linux/i386", "linux/386"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/v8.0", "linux/arm64"),
        ("linux/arm64/v8.1", "linux/arm64/v8.1"),
        ("linux/arm64/9", "linux/arm64/v9"),
        ("linux/arm64/9.0", "linux/arm64/v9"),
        ("linux/arm64/v9.0", "linux/arm64/v9"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/unheard-of/x.y", "linux/unheard-of/x.y"),
    ],
)
def test_parse_and_normalize(text, expected):
    platform = platforms.parse(text)
    assert platforms.format(platform) == expected
    assert platforms.normalize(platform) == platform


def test_what_is_left_out_is_the_hosts():
    host = platforms.default()
    assert platforms.parse("linux") == host
    assert platforms.parse("s390x") == linux("s390x")
    assert platforms.parse("armhf") == linux("arm", "v7")
    assert platforms.parse("windows").architecture == host.architecture


def test_a_version_and_features_of_the_system():
    assert platforms.parse("linux(6.1+a+b)/amd64") == linux("amd64", os_version="6.1", os_features=("a", "b"))
    assert platforms.parse("linux(+a)").os_features == ("a",)
    assert platforms.parse("windows(10.0.17763)/amd64").os_version == "10.0.17763"


@pytest.mark.parametrize(
    "bad", ["", "/", "linux/", "/amd64", "linux/amd64/v1/x", "neither", "linux/am d64", "linux/é", "linux()x/amd64",
            "linux(a/amd64", "linux(+)/a(b)", "amd64(1)", "a" * 300, "linux//v7", "linux/amd64\n"]
)  # fmt: skip
def test_refused(bad):
    with pytest.raises(errors.InvalidArgument):
        platforms.parse(bad)


@pytest.mark.parametrize(
    ("wanted", "order"),
    [
        ("linux/amd64", ["linux/amd64", "linux/386"]),
        ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]),
        ("linux/386", ["linux/386"]),
        ("linux/arm", ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm/v6", ["linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm/v8", ["linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm64", ["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm64/v8.2", ["linux/arm64/v8.2", "linux/arm64/v8.1", "linux/arm64", "linux/arm/v8", "linux/arm/v7"]),
        (
            "linux/arm64/v9.1",
            [
                "linux/arm64/v9.1",
                "linux/arm64/v9",
                "linux/arm64/v8.6",
                "linux/arm64/v8.5",
                "linux/arm64",
                "linux/arm/v8",
            ],
        ),
        ("linux/s390x", ["linux/s390x"]),
        ("linux/riscv64/rva23u64", ["linux/riscv64/rva23u64"]),
    ],
)
def test_order_of_what_runs(wanted, order):
    matcher = platforms.only(platforms.parse(wanted))
    ranks = [matcher.rank(platforms.parse(text)) for text in order]
    assert None not in ranks
    assert ranks == sorted(set(ranks))
    assert ranks[0] == 0


@pytest.mark.parametrize(
    ("wanted", "other"),
    [
        ("linux/amd64", "linux/amd64/v2"),
        ("linux/amd64", "windows/amd64"),
        ("linux/386", "linux/amd64"),
        ("linux/arm/v6", "linux/arm/v7"),
        ("linux/arm", "linux/arm64"),
        ("linux/arm64", "linux/arm64/v8.1"),
        ("linux/arm64/v8.9", "linux/arm64/v9"),
        ("linux/arm64/v9", "linux/arm64/v8.6"),
        ("linux/amd64", "unknown/unknown"),
    ],
)
def test_what_does_not_run(wanted, other):
    assert not platforms.only(platforms.parse(wanted)).match(platforms.parse(other))


def test_features_of_the_system_must_all_be_there():
    plain, able = platforms.only(linux("amd64")), platforms.only(linux("amd64", os_features=("a", "b")))
    assert not plain.match(linux("amd64", os_features=("a",)))
    assert able.match(linux("amd64", os_features=("b",)))
    assert able.match(linux("amd64"))
    assert not able.match(linux("amd64", os_features=("a", "c")))


def test_several_are_preferred_in_order():
    matcher = platforms.any_of([linux("s390x"), linux("amd64")])
    assert [matcher.rank(linux(name)) for name in ("s390x", "amd64", "386", "arm")] == [0, 1, 2, None]
    assert platforms.any_of([]).rank(linux("amd64")) is None
    assert platforms.Every().match(linux("anything"))


@pytest.mark.parametrize("variant", ["v" + "9" * 5000, "v²", "v-1", "٣", "v0", "v10000000", "v8." + "9" * 5000])
@pytest.mark.parametrize("architecture", ["arm", "amd64", "arm64"])
def test_odd_variants_match_themselves_and_cost_nothing(architecture, variant):
    matcher = platforms.only(linux(architecture, variant))
    assert matcher.rank(linux(architecture, variant)) == 0
    assert not matcher.match(linux(architecture, variant + "x"))
