"""The rows follow containerd's grammar and the tables that the hardening notes list, over a corpus of our own."""

from dataclasses import dataclass, field

import pytest

from spec import errors, filters


@dataclass
class Thing:
    name: str
    note: str = ""
    labels: dict[str, str] = field(default_factory=dict)


THINGS = [
    Thing("red", labels={"hue": "warm"}),
    Thing("blue"),
    Thing("red", labels={"hue": "odd", "two words": "yes"}),
    Thing("blue", labels={"deep": "warm"}),
    Thing("redder", labels={'back\\slash "quote"': "yes"}),
    Thing("redder", labels={'back\\slash "quote".tail': "yes"}),
    Thing("grey", note="one, two"),
    Thing("greyer", note="abc"),
    Thing("mix", labels={"hue": "a_b.c-d", "empty": ""}),
]
FIELDS = filters.fields_of({"name": lambda t: t.name, "note": lambda t: t.note, "labels": lambda t: t.labels})


def found(*texts):
    matches = filters.matcher(texts, FIELDS)
    return [index for index, thing in enumerate(THINGS) if matches(thing)]


ALL = list(range(9))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ALL),
        ("name", ALL),
        ("labels.hue", [0, 2, 8]),
        ("labels.hue,name", [0, 2, 8]),
        ("labels.empty", []),
        ('labels.empty==""', [8]),
        ("labels.hue==warm", [0]),
        ("labels.hue==a_b.c-d", [8]),
        ("name==blue", [1, 3]),
        ("name!=blue", [0, 2, 4, 5, 6, 7, 8]),
        ("name==blue,labels.deep", [3]),
        ("name==blue,labels.deep==warm", [3]),
        ("name==blue,labels.deep==cold", []),
        ("labels.hue!=warm", [1, 2, 3, 4, 5, 6, 7, 8]),
        ('note=="one, two"', [6]),
        ("note~=[abe]+,name!=red", [6, 7]),
        ("note~=/[abe]+/,name!=red", [6, 7]),
        ("note~=/[abe]{1,2}/,name!=red", [6, 7]),
        ("note~=|one/?|", [6]),
        ('note~=/[abc]{0,1}"\\//,name!=red', []),
        ("note~=^$", [0, 1, 2, 3, 4, 5, 8]),
        ('name==red,labels."two words"', [2]),
        (r'labels."back\\slash \"quote\""==yes', [4]),
        (r'labels."back\\slash \"quote\"".tail==yes', [5]),
        ("unknown", []),
        ("unknown!=x", ALL),
        ("unknown==x", []),
        ("name.more", []),
    ],
)
def test_what_matches(text, expected):
    assert found(text) == expected


def test_a_list_matches_when_one_does():
    assert found() == ALL
    assert found("name==mix", "name==grey") == [6, 8]
    assert found("name==mix", "") == ALL


@pytest.mark.parametrize(
    ("text", "position", "why"),
    [
        ("labels.|hue|==warm", 7, "invalid quote encountered"),
        ("labels./hue/==warm", 7, "invalid quote encountered"),
        ('labels.?"two words"==yes', 7, "expected field or quoted"),
        ("name==red,", 10, "expected field or quoted"),
        ("labels.", 7, "expected field or quoted"),
        (",", 0, "expected field or quoted"),
        (" ", 1, "expected field or quoted"),
        ("==x", 0, "expected field or quoted"),
        ("note~=,name==x", 6, "expected value or quoted"),
        ("note==,name!=x", 6, "expected value or quoted"),
        ("note==", 6, "expected value or quoted"),
        ("note=", 4, "unsupported operator '='"),
        ("note=x", 4, "unsupported operator '='"),
        ("note===x", 4, "unsupported operator '==='"),
        ("note?x", 4, "expected an operator"),
        ("labels.a-b==c", 8, "expected an operator"),
        ("labels.ns/key==value", 9, "quoted literal not terminated"),
        ("labels.example.io/key==value", 17, "quoted literal not terminated"),
        ("labels.key==/value", 12, "quoted literal not terminated"),
        ("labels.key==/value/", 12, "invalid quote encountered"),
        ("labels.key==|value|", 12, "invalid quote encountered"),
        ('labels."a\nb"==c', 7, "quoted literal not terminated"),
        ('labels."abc', 7, "quoted literal not terminated"),
        ('labels."abc\\', 12, "illegal escape sequence"),
        (r'labels."\g"', 9, "illegal escape sequence"),
        (r'labels."\/"', 9, "illegal escape sequence"),
        (r"note~=/\d/", 8, "illegal escape sequence"),
        (r'labels."\xaz"', 9, "illegal numeric escape sequence"),
        (r'labels."\18"', 9, "illegal numeric escape sequence"),
        (r'labels."\777"', 12, "illegal numeric escape sequence"),
        (r'labels."\U00110000"', 18, "illegal numeric escape sequence"),
        (r'labels."\xff"', 7, "quoted literal is not UTF-8"),
        (r'labels."\ud800"', 7, "quoted literal is not UTF-8"),
        ("name\0x", 4, "unexpected null"),
        ("name==\0", 6, "unexpected null"),
        ("name==a\0b", 7, "unexpected input"),
        ("name==one two", 10, "unexpected input"),
        ('name=="one"two', 11, "unexpected input"),
    ],
)
def test_errors_name_the_place(text, position, why):
    with pytest.raises(errors.InvalidArgument) as caught:
        filters.matcher([text], FIELDS)
    assert caught.value.message.endswith(f"position {position}: {why}")
    if position < len(text):
        assert f"[{text[:position]} >|{text[position]}|< {text[position + 1 :]}]" in caught.value.message
    else:
        assert f"[{text}]" in caught.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name", [(("name",), "", "")]),
        ("name==value,foo!=bar", [(("name",), "==", "value"), (("foo",), "!=", "bar")]),
        ("a.b~=[abc]+", [(("a", "b"), "~=", "[abc]+")]),
        (r"name~=[abc]\+,x", [(("name",), "~=", r"[abc]\+"), (("x",), "", "")]),
        ("name~=/[abc]{0,2}/", [(("name",), "~=", "[abc]{0,2}")]),
        ("name~=牛,labels.moo==true", [(("name",), "~=", "牛"), (("labels", "moo"), "==", "true")]),
        ("name~=|牛|", [(("name",), "~=", "牛")]),
        (r'name~="as\n\tdf"', [(("name",), "~=", "as\n\tdf")]),
        (" foo == bar    ", [(("foo",), "==", "bar")]),
        ("foo\t,bar", [(("foo",), "", ""), (("bar",), "", "")]),
        ("a.b==under_score.dash-ed", [(("a", "b"), "==", "under_score.dash-ed")]),
        ('"with space".tail==v', [(("with space", "tail"), "==", "v")]),
        (r"a~=/x\/y/", [(("a",), "~=", "x/y")]),
        (r"a~=/\\d/", [(("a",), "~=", r"\d")]),
        ("a~=|x/y|", [(("a",), "~=", "x/y")]),
        ('a==b"c/d|e', [(("a",), "==", 'b"c/d|e')]),
        (r'a=="\x41\101\u0042\U0001F600"', [(("a",), "==", "AAB\U0001f600")]),
        (r'a=="\xe7\x89\x9b"', [(("a",), "==", "牛")]),
        ("été==ü", [(("été",), "==", "ü")]),
    ],
)
def test_what_is_read(text, expected):
    assert filters.parse(text) == expected


@pytest.mark.parametrize("pattern", ["(", "[", "x{99999999999999}", "(" * 3000 + ")" * 3000])
def test_a_bad_regular_expression_is_the_callers_mistake(pattern):
    with pytest.raises(errors.InvalidArgument, match="not a regular expression"):
        filters.matcher([f"name~=/{pattern}/"], FIELDS)


def test_an_error_of_a_long_filter_is_short():
    with pytest.raises(errors.InvalidArgument) as caught:
        filters.matcher(["a" * 100_000 + "?"], FIELDS)
    assert len(caught.value.message) < 600


def test_fields_by_dotted_name_come_before_maps():
    get = filters.fields_of({"a": lambda t: {"b": "entry", "c": "other"}, "a.b": lambda t: "field"})
    assert get(None, ("a", "b")) == "field"
    assert get(None, ("a", "c")) == "other"
    assert get(None, ("a",)) is None
    assert get(None, ("x",)) is None


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        ([], None),
        ([""], None),
        (["id==a"], {"a"}),
        (['id=="a b"', '"id"==c,labels.x'], {"a b", "c"}),
        (["id==a", "labels.x==y"], None),
        (["id==a", ""], None),
        (["id!=a"], None),
        (["id~=a"], None),
        (["id"], None),
        (["id.x==a"], None),
        (["namespace==n,id==a,id==b"], {"a", "b"}),
    ],
)
def test_exact_values(texts, values):
    assert filters.exact(texts, "id") == (None if values is None else frozenset(values))
