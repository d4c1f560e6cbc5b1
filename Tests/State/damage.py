"""Files that are damaged, empty, or of a newer version."""
import contextlib
import hashlib
import os
import random
import sqlite3

from bench import case

PAGE = 16384


def written(bench, texts=200):
    """A gateway that has stopped, with a history of some hundred kilobytes."""
    subject = bench.subject()
    subject.start()
    for _ in range(texts):
        subject.infer("t" * 1000)
    subject.wait_written()
    subject.stop()
    return subject


def overwrite(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def page_of(subject, name, newest):
    """The number of a leaf of a table: the one that new rows go to, or one in its middle."""
    with contextlib.closing(sqlite3.connect(subject.path)) as database:
        root, = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
    data = subject.path.read_bytes()

    def page(number):
        return data[(number - 1) * PAGE:number * PAGE]
    number = root
    while page(number)[0] == 0x05:  # an interior page: its right-most child is in its head, others in its cells
        if newest:
            number = int.from_bytes(page(number)[8:12], "big")
        else:
            cell = int.from_bytes(page(number)[12 + 2:12 + 4], "big")
            number = int.from_bytes(page(number)[cell:cell + 4], "big")
    assert page(number)[0] == 0x0D, "not a leaf of a table"
    return number


def assert_replaced(subject, damaged):
    """The damaged file lies beside a new one, which has all that came since."""
    subject.wait_written()
    moved = subject.wait_said("history is damaged: moved aside, and a new one begun")
    assert len(moved) == 1 and moved[0]["path"] == str(subject.path), moved
    with open(moved[0]["moved_to"], "rb") as file:
        assert hashlib.sha256(file.read()).digest() == damaged, "what was moved aside is not what was damaged"
    assert subject.check_file() == subject.answered
    assert subject.totals["total_inferences"] == len(subject.answered), subject.totals


def damaged_at_the_start(bench, damage):
    subject = written(bench)
    subject.answered.clear()
    damage(subject)
    damaged = hashlib.sha256(subject.path.read_bytes()).digest()
    subject.start()
    subject.paces(20)
    assert_replaced(subject, damaged)


@case("corrupt: random bytes")
def random_bytes(bench):
    generator = random.Random(bench.seed)
    damaged_at_the_start(bench, lambda subject: subject.path.write_bytes(generator.randbytes(100_000)))


@case("corrupt: cut in its header")
def cut_header(bench):
    damaged_at_the_start(bench, lambda subject: os.truncate(subject.path, 60))


@case("corrupt: the page of the totals")
def totals_page(bench):
    damaged_at_the_start(
        bench, lambda subject: overwrite(subject.path, (page_of(subject, "total", True) - 1) * PAGE, b"\xff" * PAGE))


@case("corrupt: the page that new rows go to")
def newest_page(bench):
    damaged_at_the_start(
        bench, lambda subject: overwrite(subject.path, (page_of(subject, "request", True) - 1) * PAGE, b"\xff" * PAGE))


@case("corrupt: a page in the middle")
def page_in_the_middle(bench):
    """Writing goes on beside it; whoever reads there finds it."""
    subject = written(bench)
    number = page_of(subject, "request", False)
    subject.answered.clear()
    overwrite(subject.path, (number - 1) * PAGE, b"\xff" * PAGE)
    damaged = hashlib.sha256(subject.path.read_bytes()).digest()
    subject.start()
    with contextlib.suppress(AssertionError):
        subject.ask(subject.admin, "/admin/requests?limit=500")
    subject.wait_said("history is damaged: moved aside, and a new one begun")
    subject.paces(20)
    assert_replaced(subject, damaged)
    subject.ask(subject.admin, "/admin/requests?limit=500")


@case("empty file")
def empty_file(bench):
    subject = bench.subject()
    subject.path.parent.mkdir()
    subject.path.touch()
    subject.start()
    subject.paces(20)
    subject.wait_written()
    assert subject.check_file() == subject.answered
    assert [one.name for one in subject.path.parent.glob("*damaged*")] == []


def make_newer(subject):
    with contextlib.closing(sqlite3.connect(subject.path)) as database:
        database.execute("INSERT INTO grdb_migrations VALUES ('99')")
        database.commit()


@case("S06 schema of a newer version")
def newer_schema(bench):
    subject = written(bench, texts=5)
    make_newer(subject)
    before = subject.path.read_bytes()
    code, said = subject.start_refused()
    assert code > 0, f"it ended with {code}"
    assert "was made by a newer version of the gateway" in said and str(subject.path) in said, said
    assert said.count("\n") == 1, f"more than one line: {said}"
    assert subject.path.read_bytes() == before, "the file has changed"
    assert subject.sidecars.get("-wal", 0) == 0, f"left beside it: {subject.sidecars}"


@case("S06 schema of a newer version, put there while it runs")
def newer_schema_while_running(bench):
    newer = written(bench, texts=5)
    make_newer(newer)
    before = newer.path.read_bytes()
    subject = bench.subject()
    subject.start()
    subject.infer()
    subject.wait_written()
    subject.path.parent.rename(subject.folder / "earlier")
    newer.path.parent.rename(subject.path.parent)
    subject.infer()
    subject.wait_degraded("a newer version of the gateway made it")
    subject.paces(20)
    assert subject.path.read_bytes() == before, "the file has changed"


@case("replaced while open")
def replaced(bench):
    """An earlier file is put back: its rows are there again, and none of those that were beside it in the WAL file."""
    backup = written(bench, texts=5)
    subject = bench.subject()
    subject.start()
    subject.paces(20)
    subject.wait_written()
    os.replace(backup.path, subject.path)
    subject.answered = set(backup.answered)
    subject.infer()
    subject.wait_written()
    assert subject.check_file() == subject.answered
    subject.stop()
    assert subject.ids() == subject.answered
