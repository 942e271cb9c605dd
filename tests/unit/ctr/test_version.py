from ctr.commands import version


def test_the_same_release_has_no_warning():
    assert version.mismatches(("1", "a"), ("1", "a")) == []


def test_each_difference_is_told():
    assert version.mismatches(("1", "a"), ("2", "b")) == [
        "client and server differ in version: '1' and '2'",
        "client and server differ in revision: 'a' and 'b'",
    ]
