"""Disks that are full, locked, read-only or gone, and paths where no file can be."""
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile

from bench import MAX_PENDING, MAX_PENDING_BYTES, Skipped, Subject, assert_undisturbed, case, wait_for

FULL = "the disk is full"
LOCKED = "another process has locked it"
READ_ONLY = "it cannot be written: read-only, or no permission"
NO_FILE = "it is not a regular file"
NOT_OPENED = "it cannot be opened: no such folder, or no permission"


class OnSmallDisk(Subject):
    """Its history is on a tmpfs that it alone sees, in a mount namespace that ends with it."""

    MOUNT = 'mount -t tmpfs -o size=48m tmpfs "$0"'
    FILL = 'dd if=/dev/zero of="$0/filler" bs=64k 2>/dev/null || true'

    def __init__(self, *arguments, full=False):
        super().__init__(*arguments)
        self.path.parent.mkdir()
        if shutil.which("unshare") is None or subprocess.run(
                self._under(self.MOUNT), capture_output=True).returncode != 0:
            raise Skipped("nothing can be mounted here")
        self.under = self._under(self.MOUNT, *([self.FILL] if full else []), 'exec "$@"')

    def _under(self, *steps):
        namespace = [] if os.geteuid() == 0 else ["--map-root-user"]
        return ["unshare", "--mount", *namespace, "sh", "-ec", "; ".join(steps), self.path.parent]

    def inside(self, name):
        """A file as the gateway sees it."""
        return f"/proc/{self.process.pid}/root{self.path.parent}/{name}"

    def fill(self):
        with contextlib.suppress(OSError), open(self.inside("filler"), "wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass

    def free(self):
        os.unlink(self.inside("filler"))

    @contextlib.contextmanager
    def database(self):
        """A copy: SQLite would resolve the path, and look outside."""
        with tempfile.TemporaryDirectory() as copies:
            for suffix in ["", "-wal"]:
                shutil.copy(self.inside(self.path.name + suffix), copies)
            with contextlib.closing(sqlite3.connect(f"{copies}/{self.path.name}")) as database:
                yield database


def assert_counted(subject):
    """Each answered request is in the history, waits for it, or is counted as lost; the totals have them all."""
    def is_counted():
        status = subject.status
        return status["rows"] + status["dropped"] == len(subject.answered)
    wait_for(is_counted, 10, f"a history that knows of all {len(subject.answered)} requests")
    status, samples = subject.status, subject.samples
    assert samples["rows"] == status["rows"] and samples["dropped_total"] == status["dropped"], f"{samples}, {status}"
    assert subject.totals["total_inferences"] == len(subject.answered), f"{len(subject.answered)}, {subject.totals}"


def overflow(subject):
    """More requests than may wait; returns how many were lost."""
    subject.flood(MAX_PENDING + 5000)
    assert_counted(subject)
    status = subject.status
    dropped = subject.lost = status["dropped"]
    assert status["pending"] == MAX_PENDING and dropped >= 5000, status
    assert any(f"{dropped} requests are lost to it" in text for text in subject.alerts), subject.alerts
    return dropped


@case("disk full")
def disk_full(bench):
    subject = bench.subject(OnSmallDisk)
    subject.start()
    before = subject.paces()
    subject.wait_written()
    subject.fill()
    during = subject.paces()
    subject.wait_degraded(FULL)
    during += subject.paces()
    assert_undisturbed(before, during)
    dropped = overflow(subject)
    subject.free()
    subject.wait_written()
    said = subject.wait_said("history is written again")[-1]
    assert int(said["dropped"]) == dropped, f"{dropped} are dropped, and the log says {said}"
    subject.infer()
    subject.wait_written()
    assert_counted(subject)
    ids = subject.check_file()
    assert ids <= subject.answered and len(ids) == len(subject.answered) - dropped, f"{len(ids)} in the file"
    return f"{dropped} of {len(subject.answered)} lost"


@case("disk full at the start")
def disk_full_at_the_start(bench):
    subject = bench.subject(OnSmallDisk, full=True)
    subject.start()
    subject.wait_degraded(FULL)
    subject.paces(20)
    subject.free()
    subject.wait_written()
    assert subject.check_file() == subject.answered


@contextlib.contextmanager
def exclusive(subject):
    """Another process, as far as SQLite can tell, has the database for itself."""
    with contextlib.closing(sqlite3.connect(subject.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@case("locked, then released")
def locked(bench):
    subject = bench.subject()
    subject.start()
    before = subject.paces()
    subject.wait_written()
    during = []
    with exclusive(subject):
        while subject.status["state"] == "ok":  # the lock is waited for: requests must not wait with it
            during += subject.paces(10)
            assert len(during) < 100_000, "the lock is not noticed"
        subject.wait_degraded(LOCKED)
        during += subject.paces(200)
    assert_undisturbed(before, during)
    subject.wait_written()
    assert subject.check_file() == subject.answered
    assert subject.status["dropped"] == 0
    return f"{len(during)} requests during the lock"


@case("locked for long: the queue is bounded by rows")
def locked_for_long(bench):
    subject = bench.subject()
    subject.start()
    with exclusive(subject):
        subject.infer()
        subject.wait_degraded(LOCKED)
        dropped = overflow(subject)
    subject.wait_written()
    assert_counted(subject)
    ids = subject.check_file()
    assert len(ids) == len(subject.answered) - dropped and ids <= subject.answered


@case("locked for long: the queue is bounded by bytes")
def locked_with_long_texts(bench):
    subject = bench.subject()
    subject.start()
    with exclusive(subject):
        text = subject.infer("x" * 500_000)["text"]
        fit = MAX_PENDING_BYTES // len(text)
        for _ in range(fit + 4):
            subject.infer("x" * 500_000)
            assert subject.status["rows"] <= fit, f"{subject.status} with texts of {len(text)} bytes"
        subject.wait_degraded(LOCKED)
        assert_counted(subject)
        subject.lost = subject.status["dropped"]
        assert subject.lost == 5, subject.status
    subject.wait_written()
    assert_counted(subject)
    return f"{fit} texts of {len(text)} bytes wait"


@case("locked at the start")
def locked_at_the_start(bench):
    subject = bench.subject()
    subject.start()
    subject.infer()
    subject.stop()
    with exclusive(subject):
        subject.start()
        subject.wait_degraded(LOCKED)
    subject.wait_written()  # without a request that would bring it about
    assert subject.totals["total_inferences"] == 1, subject.totals
    assert json.loads(subject.ask(subject.port, "/webllm/api/history"))["count"] == 1, "the last requests are not shown"
    subject.infer()
    subject.wait_written()
    assert subject.check_file() == subject.answered


@case("locked at the end")
def locked_at_the_end(bench):
    subject = bench.subject()
    subject.start()
    subject.infer()
    subject.wait_written()
    with exclusive(subject):
        subject.infer()
        subject.stop()
    said = subject.wait_said("history ends before all is written")[0]
    assert int(said["lost"]) == 1, f"the log says {said}"


@contextlib.contextmanager
def without_root(subject):
    """Root would ignore permissions."""
    owner = os.geteuid()
    if owner == 0:
        subject.under = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        tried = shutil.which("setpriv") and subprocess.run(
            [*subject.under, subject.binary, "--help"], capture_output=True)
        if not tried or tried.returncode != 0:
            raise Skipped("nobody else can run the gateway here")
        owner = 65534
    subject.path.parent.mkdir()
    os.chown(subject.path.parent, owner, -1)
    subject.folder.chmod(0o755)
    subject.config.chmod(0o644)
    yield
    subject.path.parent.chmod(0o755)


@case("read-only file")
def read_only_file(bench):
    subject = bench.subject()
    with without_root(subject):
        subject.start()
        before = subject.paces()
        subject.stop()
        subject.path.chmod(0o444)
        subject.start()
        subject.wait_degraded(READ_ONLY)
        assert_undisturbed(before, subject.paces())
        subject.path.chmod(0o644)
        subject.wait_written()
        assert subject.check_file() == subject.answered


@case("read-only folder")
def read_only_folder(bench):
    subject = bench.subject()
    with without_root(subject):
        subject.path.parent.chmod(0o555)
        subject.start()
        subject.wait_degraded(NOT_OPENED)
        subject.paces(20)
        subject.path.parent.chmod(0o755)
        subject.wait_written()
        assert subject.check_file() == subject.answered


@case("deleted while open")
def deleted(bench):
    subject = bench.subject()
    subject.start()
    subject.paces(20)
    subject.wait_written()
    shutil.rmtree(subject.path.parent)
    lost, subject.answered = len(subject.answered), set()
    subject.infer()
    subject.wait_written()
    assert subject.check_file() == subject.answered
    said = subject.wait_said("history file was deleted or replaced: opened again")[0]
    assert int(said["lost"]) == lost, f"{lost} are lost, and the log says {said}"
    assert subject.status["dropped"] == subject.samples["dropped_total"] == lost, subject.status


@case("path is a folder")
def path_is_a_folder(bench):
    subject = bench.subject()
    subject.path.mkdir(parents=True)
    subject.start()
    subject.wait_degraded(NO_FILE)
    subject.paces(20)
    subject.path.rmdir()
    subject.wait_written()
    assert subject.check_file() == subject.answered


@case("path cannot be made")
def path_cannot_be_made(bench):
    subject = bench.subject()
    subject.path.parent.write_text("not a folder")
    subject.start()
    subject.wait_degraded(NOT_OPENED)
    subject.paces(20)
    wait_for(lambda: subject.status["pending"] == 20, 10, "20 requests that wait")
    subject.path.parent.unlink()
    subject.wait_written()
    assert subject.check_file() == subject.answered
