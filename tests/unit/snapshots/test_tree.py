"""The state machine of snapshots, without any filesystem: containerd's metastore cases and our own."""

import pytest
from msgspec.structs import replace

from daemon.kit.dictkv import DictKV
from daemon.snapshots.tree import MAX_KEY, Tree
from spec import errors
from spec.records import Kind, SnapshotInfo
from spec.types import Usage

USAGE = Usage(size=4096, inodes=7)


@pytest.fixture
def tree():
    return Tree(DictKV())


def committed(tree, name, parent=""):
    tree.create(Kind.ACTIVE, f"active-{name}", parent, None)
    tree.commit(name, f"active-{name}", None, USAGE)
    return tree.get(name).id


def test_an_empty_tree(tree):
    assert list(tree.list()) == []
    assert tree.ids() == set()
    for question in (tree.get, tree.active, tree.remove):
        with pytest.raises(errors.NotFound):
            question("missing")


def test_a_new_active_snapshot(tree):
    node = tree.create(Kind.ACTIVE, "key", "", {"a": "1"})
    assert (node.kind, list(node.parents)) == (Kind.ACTIVE, [])
    info = tree.get("key").info
    assert (info.name, info.parent, info.kind, info.labels) == ("key", "", Kind.ACTIVE, {"a": "1"})
    assert info.created_at_ns == info.updated_at_ns > 0


def test_ids_are_unique_even_after_removal_and_stay_when_committed(tree):
    ids = [tree.create(Kind.ACTIVE, f"key {number}", "", None).id for number in range(3)]
    tree.remove("key 2")
    ids.append(tree.create(Kind.VIEW, "key 2", "", None).id)
    assert len(set(ids)) == 4
    tree.commit("name", "key 0", None, USAGE)
    assert tree.get("name").id == ids[0]


def test_parents_come_nearest_first(tree):
    chain = [committed(tree, "one"), committed(tree, "two", "one"), committed(tree, "three", "two")]
    assert list(tree.create(Kind.ACTIVE, "key", "three", None).parents) == chain[::-1]
    assert list(tree.active("key").parents) == chain[::-1]
    assert list(tree.create(Kind.VIEW, "view", "one", None).parents) == chain[:1]
    tree.commit("four", "key", None, USAGE)
    assert list(tree.get("four").parents) == chain[::-1]


@pytest.mark.parametrize("kind", [Kind.ACTIVE, Kind.VIEW])
class TestCreate:
    def test_a_missing_parent(self, tree, kind):
        with pytest.raises(errors.NotFound, match="missing"):
            tree.create(kind, "key", "missing", None)
        with pytest.raises(errors.NotFound):
            tree.get("key")

    @pytest.mark.parametrize("other", [Kind.ACTIVE, Kind.VIEW])
    def test_a_parent_that_is_not_committed(self, tree, kind, other):
        tree.create(other, "parent", "", None)
        with pytest.raises(errors.InvalidArgument, match="not committed"):
            tree.create(kind, "key", "parent", None)

    @pytest.mark.parametrize("other", [Kind.ACTIVE, Kind.VIEW])
    def test_a_key_that_is_taken(self, tree, kind, other):
        tree.create(other, "key", "", None)
        with pytest.raises(errors.AlreadyExists):
            tree.create(kind, "key", "", None)

    def test_the_name_of_a_committed_one_is_taken_too(self, tree, kind):
        committed(tree, "name")
        with pytest.raises(errors.AlreadyExists):
            tree.create(kind, "name", "", None)

    @pytest.mark.parametrize("key", ["", "with\0nul"])
    def test_a_key_that_cannot_be(self, tree, kind, key):
        with pytest.raises(errors.InvalidArgument):
            tree.create(kind, key, "", None)

    def test_what_parent_of_says_before(self, tree, kind):
        id = committed(tree, "name")
        assert tree.parent_of("key", "") is None
        assert tree.parent_of("key", "name").id == id
        tree.create(kind, "taken", "", None)
        for key, parent, error in (
            ("taken", "", errors.AlreadyExists),
            ("key", "missing", errors.NotFound),
            ("key", "taken", errors.InvalidArgument),
        ):
            with pytest.raises(error):
                tree.parent_of(key, parent)


class TestCommit:
    def test_records_usage_and_labels_and_moves_the_key(self, tree):
        tree.create(Kind.ACTIVE, "key", "", {"old": "1"})
        tree.commit("name", "key", {"new": "2"}, USAGE)
        node = tree.get("name")
        assert node.usage == USAGE
        assert (node.kind, node.info.name, node.info.labels) == (Kind.COMMITTED, "name", {"new": "2"})
        with pytest.raises(errors.NotFound):
            tree.get("key")
        assert tree.create(Kind.ACTIVE, "key", "", None).id != node.id

    def test_usage_is_told_later(self, tree):
        tree.create(Kind.ACTIVE, "key", "", None)
        tree.commit("name", "key", {"a": "1"}, Usage())
        node = tree.get("name")
        tree.measured(node, USAGE)
        assert tree.get("name") == replace(node, usage=USAGE)
        tree.remove("name")
        tree.measured(node, USAGE)
        committed(tree, "name")
        tree.measured(node, Usage(size=1, inodes=1))
        assert tree.get("name").usage == USAGE

    def test_a_missing_key(self, tree):
        with pytest.raises(errors.NotFound):
            tree.commit("name", "missing", None, USAGE)

    def test_a_name_that_is_taken(self, tree):
        committed(tree, "name")
        tree.create(Kind.ACTIVE, "key", "", None)
        for name in ("name", "key"):
            with pytest.raises(errors.AlreadyExists):
                tree.commit(name, "key", None, USAGE)
        assert tree.active("key").kind == Kind.ACTIVE

    def test_what_is_committed_already(self, tree):
        committed(tree, "name")
        with pytest.raises(errors.FailedPrecondition):
            tree.commit("other", "name", None, USAGE)

    def test_a_view(self, tree):
        tree.create(Kind.VIEW, "view", "", None)
        with pytest.raises(errors.FailedPrecondition):
            tree.commit("name", "view", None, USAGE)

    def test_an_empty_name(self, tree):
        tree.create(Kind.ACTIVE, "key", "", None)
        with pytest.raises(errors.InvalidArgument):
            tree.commit("", "key", None, USAGE)


class TestRebase:
    @pytest.fixture(autouse=True)
    def chain(self, tree):
        self.ids = [committed(tree, "one"), committed(tree, "two", "one")]
        tree.create(Kind.ACTIVE, "apart", "", None)
        tree.create(Kind.ACTIVE, "on two", "two", None)

    def test_onto_a_parent(self, tree):
        tree.commit("name", "apart", None, USAGE, "two")
        assert (tree.get("name").info.parent, list(tree.get("name").parents)) == ("two", self.ids[::-1])
        tree.remove("on two")
        with pytest.raises(errors.FailedPrecondition):
            tree.remove("two")
        tree.remove("name")
        tree.remove("two")

    @pytest.mark.parametrize("parent", ["two", ""])
    def test_onto_the_one_it_has(self, tree, parent):
        tree.commit("name", "on two", None, USAGE, parent)
        assert (tree.get("name").info.parent, list(tree.get("name").parents)) == ("two", self.ids[::-1])

    @pytest.mark.parametrize(
        ("key", "parent", "error"),
        [
            ("apart", "missing", errors.NotFound),
            ("apart", "on two", errors.FailedPrecondition),
            ("apart", "apart", errors.FailedPrecondition),
            ("on two", "one", errors.InvalidArgument),
            ("on two", "missing", errors.InvalidArgument),
            ("two", "one", errors.FailedPrecondition),
        ],
    )
    def test_onto_what_cannot_be(self, tree, key, parent, error):
        before = tree.nodes()
        for question in (tree.committing, lambda *given: tree.commit(given[0], given[1], None, USAGE, given[2])):
            with pytest.raises(error):
                question("name", key, parent)
        assert tree.nodes() == before


class TestRemove:
    def test_returns_what_it_was(self, tree):
        id = tree.create(Kind.VIEW, "view", "", None).id
        removed = tree.remove("view")
        assert (removed.id, removed.kind) == (id, Kind.VIEW)
        with pytest.raises(errors.NotFound):
            tree.remove("view")

    @pytest.mark.parametrize("kind", [Kind.ACTIVE, Kind.VIEW, Kind.COMMITTED])
    def test_not_while_there_are_children(self, tree, kind):
        committed(tree, "parent")
        if kind == Kind.COMMITTED:
            committed(tree, "child", "parent")
        else:
            tree.create(kind, "child", "parent", None)
        with pytest.raises(errors.FailedPrecondition, match="removing snapshot parent"):
            tree.remove("parent")
        tree.remove("child")
        tree.remove("parent")
        assert tree.ids() == set()

    def test_one_child_of_two(self, tree):
        committed(tree, "parent")
        for key in ("a", "b"):
            tree.create(Kind.ACTIVE, key, "parent", None)
        tree.remove("a")
        with pytest.raises(errors.FailedPrecondition):
            tree.remove("parent")

    def test_children_of_another_whose_name_begins_alike(self, tree):
        committed(tree, "name")
        committed(tree, "name2")
        tree.create(Kind.ACTIVE, "key", "name2", None)
        tree.remove("name")


def test_a_committed_one_is_not_mounted(tree):
    committed(tree, "name")
    with pytest.raises(errors.FailedPrecondition):
        tree.active("name")


class TestUpdate:
    def test_labels_by_mask(self, tree):
        before = tree.create(Kind.ACTIVE, "key", "", {"a": "1", "b": "2", "c": "3"}).info
        given = SnapshotInfo(name="key", labels={"a": "10", "c": "30"})
        after = tree.update(given, ["labels.a", "labels.b"])
        assert after.labels == {"a": "10", "c": "3"}
        assert after.created_at_ns == before.created_at_ns
        assert after.updated_at_ns >= before.updated_at_ns
        assert tree.get("key").info == after

    def test_without_a_mask_labels_are_replaced_and_nothing_else(self, tree):
        committed(tree, "parent")
        tree.create(Kind.ACTIVE, "key", "parent", {"a": "1"})
        after = tree.update(SnapshotInfo(name="key", parent="other", kind=Kind.VIEW, labels={"b": "2"}), ())
        assert (after.labels, after.parent, after.kind) == ({"b": "2"}, "parent", Kind.ACTIVE)

    @pytest.mark.parametrize("field", ["parent", "name", "kind", "nonsense"])
    def test_other_fields_are_refused(self, tree, field):
        tree.create(Kind.ACTIVE, "key", "", None)
        with pytest.raises(errors.InvalidArgument, match=field):
            tree.update(SnapshotInfo(name="key"), [field])

    def test_a_missing_one(self, tree):
        with pytest.raises(errors.NotFound):
            tree.update(SnapshotInfo(name="missing"), ())

    def test_it_keeps_its_place_in_the_tree(self, tree):
        id = committed(tree, "name")
        tree.update(SnapshotInfo(name="name", labels={"a": "1"}), ())
        assert (tree.get("name").id, tree.get("name").usage) == (id, USAGE)


class TestList:
    @pytest.fixture
    def tree(self):
        tree = Tree(DictKV())
        committed(tree, "p")
        tree.create(Kind.ACTIVE, "a", "p", {"l": "1"})
        tree.create(Kind.VIEW, "v", "p", {"l": "2", "example.com/x": "y"})
        tree.create(Kind.ACTIVE, "lone", "", None)
        return tree

    @pytest.mark.parametrize(
        ("filters", "names"),
        [
            ([], "a lone p v"),
            (["kind==active"], "a lone"),
            (["kind==view"], "v"),
            (["kind==committed"], "p"),
            (["name==a", "name==p"], "a p"),
            (["name==a,labels.l"], "a"),
            (["name==p,labels.l"], ""),
            (["parent==p"], "a v"),
            (['parent!=""'], "a v"),
            (["labels.l==2"], "v"),
            (['labels."example.com/x"==y'], "v"),
            (["name~=^l"], "lone"),
        ],
        ids=str,
    )
    def test_filters(self, tree, filters, names):
        assert [info.name for info in tree.list(filters)] == names.split()

    def test_a_filter_that_cannot_be_read(self, tree):
        with pytest.raises(errors.InvalidArgument):
            tree.list(["name==="])

    def test_changes_while_it_is_read(self, tree):
        listing = tree.list()
        assert next(listing).name == "a"
        tree.remove("lone")
        assert [info.name for info in listing] == ["lone", "p", "v"]
        assert [info.name for info in tree.list()] == ["a", "p", "v"]


@pytest.mark.parametrize("length", [MAX_KEY - 1, MAX_KEY, MAX_KEY + 1, 5000])
def test_long_names(tree, length):
    names = ["n" * (length - 1) + end for end in "ab"]
    for name in names:
        committed(tree, name)
        tree.create(Kind.ACTIVE, f"child of {name}", name, None)
    for name in names:
        assert tree.get(name).info.name == name
        with pytest.raises(errors.FailedPrecondition):
            tree.remove(name)
        tree.remove(f"child of {name}")
        tree.remove(name)
    assert tree.ids() == set()


def test_a_change_may_be_run_again(tree):
    class Twice(DictKV):
        """As a store that runs a batch anew because of another's failure."""

        def update(self, change):
            class Again(Exception):
                pass

            def fail(txn):
                change(txn)
                raise Again

            with pytest.raises(Again):
                super().update(fail)
            return super().update(change)

    tree = Tree(Twice())
    committed(tree, "parent")
    tree.create(Kind.ACTIVE, "key", "parent", None)
    tree.update(SnapshotInfo(name="key", labels={"a": "1"}), ())
    tree.commit("name", "key", None, USAGE)
    tree.remove("name")
    tree.remove("parent")
    assert tree.ids() == set()
