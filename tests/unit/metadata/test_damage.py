"""Damage to the store's files: found before LMDB maps them, told, nothing changed, and a way back."""

import random
import shutil
import struct

import lmdb
import pytest

from daemon.metadata import held, journal, migrate, renewal, sealed
from daemon.metadata.journal import Journal
from daemon.metadata.pages import PAGE, Pages
from daemon.metadata.store import VERSION_KEY, Store, inspect
from spec import errors

ROWS = {b"ns\0things\0%05d\0" % n: b"value %d " % n * (n % 90) for n in range(3000)} | {b"ns\0big\0": b"x" * 50_000}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of several levels, with overflow pages and free ones; its rows."""
    path = tmp_path_factory.mktemp("store")
    store = Store(str(path), map_size=1 << 20)
    migrate.migrate(store)
    store.update(lambda txn: [txn.put(*row) for row in ROWS.items()]).result()
    gone = list(ROWS)[500:1500]
    store.update(lambda txn: [txn.delete(key) for key in gone]).result()
    store.update(lambda txn: txn.put(b"ns\0z\0", b"last")).result()
    with store.view() as view:
        rows = dict(view.items(b""))
    store.close()
    return path, rows


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "copy"), made[1]


def refused(path):
    """The store is damaged, says so, and no byte of it changes."""
    before = {file.name: file.read_bytes() for file in path.glob("[dj][ao][tu]*")}
    with pytest.raises(errors.DataLoss, match="fsck --rebuild"):
        Store(str(path))
    assert {file.name: file.read_bytes() for file in path.glob("[dj][ao][tu]*")} == before


def test_a_sound_store_has_no_fault(made):
    with Pages(str(made[0] / "data.mdb")) as pages:
        assert inspect(pages) == []
        assert pages.meta.rows.depth > 1
    assert held.load(str(made[0] / "data.mdb"))[:2] == (made[1], [])


def test_what_lmdb_reads_the_pages_read(made, tmp_path):
    with lmdb.open(str(made[0]), readonly=True, lock=False) as env, env.begin() as txn, txn.cursor() as cursor:
        rows = list(cursor)
    with Pages(str(made[0] / "data.mdb")) as pages:
        assert list(pages.rows()) == rows


@pytest.mark.parametrize("seed", range(300))
def test_any_bit_that_flips_is_found_or_means_nothing(made, seed):
    """In a page that is in use: the walk neither ends the process nor yields a wrong row."""
    path, rows = made
    data = bytearray((path / "data.mdb").read_bytes())
    with Pages(str(path / "data.mdb")) as pages:
        list(pages.rows())
        used = sorted(pages._seen | {0, 1})
    chance = random.Random(seed)
    place = chance.choice(used) * PAGE + chance.choice((chance.randrange(32), chance.randrange(PAGE)))
    data[place] ^= 1 << chance.randrange(8)
    found = read(data)
    assert found == (rows, []) or found[1] or found[0].items() <= rows.items()
    if not found[1]:
        assert found[0] == rows, "a fault that nobody found"


def read(data):
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return held.load(file.fileno())[:2]


def truncated(data):
    return data[: len(data) // 3]


def swapped(data):
    """The third and the sixth page change places."""
    pages = [data[at : at + PAGE] for at in range(0, len(data), PAGE)]
    pages[3], pages[6] = pages[6], pages[3]
    return b"".join(pages)


DAMAGE = {
    "empty": lambda data: b"",
    "truncated": truncated,
    "half a page": lambda data: data[:2000],
    "no meta": lambda data: bytes(2 * PAGE) + data[2 * PAGE :],
    "one meta": lambda data: bytes(PAGE) + data[PAGE:],
    "other meta": lambda data: data[:PAGE] + bytes(PAGE) + data[2 * PAGE :],
    "random": lambda data: random.Random(1).randbytes(len(data)),
    "swapped": swapped,
    "row": lambda data: data.replace(b"value 2000 value", b"value 2000 valuf", 1),
    "earlier transaction": lambda data: data[: PAGE + 144] + struct.pack("<Q", 0) + data[PAGE + 152 :],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_refused_and_salvaged(copy, how):
    path, rows = copy
    data = (path / "data.mdb").read_bytes()
    for number in (0, 1):  # the later meta page counts
        if how == "earlier transaction" and txn_of(data, number) == max(txn_of(data, 0), txn_of(data, 1)):
            (path / "data.mdb").write_bytes(set_txn(data, number, 0))
            break
    else:
        (path / "data.mdb").write_bytes(DAMAGE[how](data))
    refused(path)
    assert held.salvage(str(path)) == (rows, [])


def txn_of(data, number):
    return struct.unpack_from("<Q", data, number * PAGE + 144)[0]


def set_txn(data, number, txn):
    at = number * PAGE + 144
    return data[:at] + struct.pack("<Q", txn) + data[at + 8 :]


def test_a_store_that_went_is_not_taken_for_a_new_one(copy):
    path, rows = copy
    (path / "data.mdb").unlink()
    refused(path)
    assert held.salvage(str(path)) == (rows, [])


@pytest.mark.parametrize("keep", [0, 10, 500, 100_000])
def test_a_journal_that_is_cut_short_costs_nothing(copy, keep):
    path, rows = copy
    file = path / "journal"
    file.write_bytes(file.read_bytes()[:keep])
    store = Store(str(path))
    store.update(lambda txn: txn.put(b"more", b"1")).result()
    store.close()
    logged = {}
    assert journal.read(str(file), logged)[2] == ""
    assert {key: row[sealed.SIZE :] for key, row in logged.items()} == rows | {b"more": b"1"}


def test_both_damaged_salvages_what_is_left_and_says_so(copy):
    path, rows = copy
    data = bytearray((path / "data.mdb").read_bytes())
    at = data.index(b"value 2000 value")
    data[at] ^= 1
    (path / "data.mdb").write_bytes(data)
    (path / "journal").unlink()
    found, missing = held.salvage(str(path))
    assert rows.items() - found.items() == {(b"ns\0things\x0002000\0", ROWS[b"ns\0things\x0002000\0"])}
    assert "its checksum differs" in missing[0]


def test_a_row_damaged_under_a_running_store(copy):
    path, _ = copy
    store = Store(str(path))
    file = path / "data.mdb"
    at = file.read_bytes().index(b"value 2000 value")
    with file.open("r+b") as out:
        out.seek(at)
        out.write(b"w")
    with store.view() as view, pytest.raises(errors.DataLoss, match="row ns/things/02000 is damaged"):
        view.get(b"ns\0things\x0002000\0")
    with store.view() as view:
        assert view.get(b"ns\0z\0") == b"last"
    store.close()


def test_the_journal_is_written_anew_when_it_has_grown(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SLACK", 10_000)
    monkeypatch.setattr(journal, "RETRY_S", 0.0)
    store = Store(str(tmp_path))
    before, size = 0, 1
    while size > before:
        before = size
        store.update(lambda txn, n=before: txn.put(b"k", b"%d" % n * 1000)).result()
        size = (tmp_path / "journal").stat().st_size
        assert size < 10_000_000, "it grows without end"
    store.close()
    rows = {}
    assert journal.read(str(tmp_path / "journal"), rows)[2] == ""
    assert rows == {b"k": sealed.seal(b"k", b"%d" % before * 1000)}


def rows_of(store):
    with store.view() as view:
        return dict(view.stored())


def test_what_is_committed_while_the_journal_is_written_anew_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SLACK", 10_000)
    monkeypatch.setattr(journal, "RETRY_S", 0.0)
    monkeypatch.setattr(renewal, "PART", 16)
    replaced = []
    replace = Journal.replace
    monkeypatch.setattr(Journal, "replace", lambda *args: replaced.append(args[1:]) or replace(*args))
    store = Store(str(tmp_path))
    turn = 0
    while len(replaced) < 3 and turn < 20_000:
        turn += 1
        store.update(lambda txn, n=turn: [txn.put(b"k%d" % (n % 500), b"%d" % n * 20), txn.delete(b"k%d" % (n % 7))])
        if turn % 10 == 0:
            store.update(lambda txn: None).result()
    store.update(lambda txn: None).result()
    expected = rows_of(store)
    store.close()
    assert len(replaced) == 3
    logged = {}
    ends, size, wrong = journal.read(str(tmp_path / "journal"), logged)
    assert (wrong, logged) == ("", expected)
    assert size == (tmp_path / "journal").stat().st_size
    assert not (tmp_path / "journal.new").exists()
    Store(str(tmp_path)).close()
    assert journal.read(str(tmp_path / "journal"))[0] == ends, "it went on where it was"


def test_a_map_that_grows_does_not_wait_for_the_journal(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SLACK", 10_000)
    monkeypatch.setattr(journal, "RETRY_S", 0.0)
    monkeypatch.setattr(renewal, "PART", 1)
    monkeypatch.setattr(renewal, "PAUSE_S", 0.01)
    store = Store(str(tmp_path), map_size=1 << 23)
    for n in range(3000):
        store.update(lambda txn, n=n: txn.put(b"%06d" % n, bytes(3000)))
    store.update(lambda txn: None).result(60)
    assert len(rows_of(store)) == 3000
    store.close()
    logged = {}
    assert journal.read(str(tmp_path / "journal"), logged)[2] == ""
    assert len(logged) == 3000
    assert not (tmp_path / "journal.new").exists()


def test_rows_of_before_there_were_checksums_get_them(tmp_path):
    with lmdb.open(str(tmp_path)) as env, env.begin(write=True) as txn:
        txn.put(VERSION_KEY, b"1")
        txn.put(b"ns\0images\0a\0", b"row")
    store = Store(str(tmp_path))
    assert migrate.migrate(store) == 2
    with store.view() as view:
        assert view.get(b"ns\0images\0a\0") == b"row"
    store.close()
    Store(str(tmp_path)).close()
    assert held.load(str(tmp_path / "data.mdb"))[:2] == ({b"ns\0images\0a\0": b"row", VERSION_KEY: b"2"}, [])


@pytest.mark.parametrize("version", [b"0", b"-1", b"", b"x", b"3", b"99"])
def test_a_version_that_is_none_is_refused_and_nothing_changes(tmp_path, version):
    store = Store(str(tmp_path))
    store.update(lambda txn: txn.put(VERSION_KEY, version)).result()
    with pytest.raises(errors.FailedPrecondition, match="its schema is version"):
        migrate.migrate(store)
    with store.view() as view:
        assert dict(view.items(b"")) == {VERSION_KEY: version}
    store.close()


def test_a_locked_store_is_refused_untouched(copy):
    store = Store(str(copy[0]))
    with pytest.raises(errors.FailedPrecondition, match="another daemon has it"):
        Store(str(copy[0]))
    store.close()


def test_garbage_for_a_lock_file_is_no_hindrance(copy):
    for name in ("lock.mdb", "daemon.lock"):
        (copy[0] / name).write_bytes(random.Random(2).randbytes(5000))
    store = Store(str(copy[0]))
    with store.view() as view:
        assert dict(view.items(b"")) == copy[1]
    store.close()
