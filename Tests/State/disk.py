"""Disks that are full, locked, read-only or gone, and what is no file."""
import contextlib
import os
import shutil
import sqlite3
import subprocess
import tempfile

from bench import MAX_PENDING, MAX_PENDING_BYTES, Skipped, assert_undisturbed, case, wait_for

FULL = "the disk is full"
LOCKED = "another process has locked it"
READ_ONLY = "it cannot be written: read-only, or no permission"
NOT_OPENED = "it cannot be opened: no such folder, or no permission"


class SmallDisk:
    """A tmpfs that only the gateway has, in a mount namespace that ends with it."""

    COMMAND = 'mount -t tmpfs -o size=48m tmpfs "$0"; if [ "$1" = full ]; then dd if=/dev/zero of="$0/filler" bs=64k; fi; shift; exec "$@"'

    def __init__(self, bench, fill):
        self.folder = tempfile.TemporaryDirectory(prefix="webllm-disk-")
        namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
        if shutil.which("unshare") is None or subprocess.run(
                [*namespace, "mount", "-t", "tmpfs", "tmpfs", self.folder.name], capture_output=True).returncode != 0:
            raise Skipped("nothing can be mounted here")
        self.subject = bench.subject(
            path=f"{self.folder.name}/history.sqlite",
            under=[*namespace, "sh", "-c", self.COMMAND, self.folder.name, "full" if fill else "empty"])

    def inside(self, name):
        """The file as the gateway sees it."""
        return f"/proc/{self.subject.process.pid}/root{self.folder.name}/{name}"

    def fill(self):
        with contextlib.suppress(OSError), open(self.inside("filler"), "wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass

    def free(self):
        os.unlink(self.inside("filler"))

    def check_file(self):
        """On a copy: SQLite would look for the path outside."""
        with tempfile.TemporaryDirectory() as copies:
            for suffix in ["", "-wal"]:
                shutil.copy(self.inside("history.sqlite" + suffix), copies)
            return self.subject.check_file(f"{copies}/history.sqlite")
