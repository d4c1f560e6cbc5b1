"""A gateway with a history file of its own: what is done to it, and what is seen of it."""
import contextlib
import http.client
import json
import pathlib
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "Life"))
from life import Gateway, Upstream, free_ports, wait_for, write_config  # noqa: E402

# What HistoryStore promises: rows that may wait, and bytes of their texts; bytes of the -wal file before it warns;
# seconds that kill -9 may cost.
MAX_PENDING = 20_000
MAX_PENDING_BYTES = 64 << 20
MAX_LOG_BYTES = 128 << 20
LOST_AT_MOST = 1.0

CASES = []


def case(title):
    def add(function):
        CASES.append((title, function))
        return function
    return add


class Skipped(Exception):
    """The case needs what this machine does not have."""


class Bench:
    """What a case gets: gateways that end with it, and an upstream that all share."""

    def __init__(self, binary, kills, seed):
        self.binary, self.kills, self.seed = binary, kills, seed
        self.upstream = Upstream(free_ports(1)[0])
        self.subjects = []

    def subject(self, kind=None, **settings):
        self.subjects.append((kind or Subject)(self.binary, self.upstream, **settings))
        return self.subjects[-1]

    def end_case(self):
        while self.subjects:
            self.subjects.pop().close()

    def close(self):
        self.end_case()
        self.upstream.stop()


class Subject:
    """A gateway on one history file, started as often as a case wants."""

    def __init__(self, binary, upstream, history=""):
        self.binary = binary
        self.under = ()  # a command that becomes the gateway
        self.holder = tempfile.TemporaryDirectory(prefix="webllm-state-")
        self.folder = pathlib.Path(self.holder.name)
        self.path = self.folder / "state/history.sqlite"
        self.port, self.admin = free_ports(2)
        self.config, self.log = self.folder / "gateway.conf", self.folder / "log"
        write_config(
            self.config, self.port, self.admin, [upstream],
            'drain_timeout = "2s"\n[webllm]\nmax_batch = 10000\nmax_prompt_characters = 1000000',
            f'path = "{self.path}"\n{history}')
        self.gateway = None
        self.answered = set()  # ids of requests that the file must have
        self.lost = 0  # of these, how many may be missing

    # Life cycle

    def start(self):
        """Until it serves. Returns the seconds it took."""
        started = time.monotonic()
        self._spawn()
        wait_for(lambda: self.said("listening for operators") or self.process.poll() is not None, 20, "the gateway")
        assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.log.read_text()[-500:]}"
        return time.monotonic() - started

    def start_refused(self):
        """Where it must not serve: its exit code and what it says."""
        self._spawn()
        return self.process.wait(timeout=20), self.log.read_text()

    def _spawn(self):
        self.log.write_text("")
        self.gateway = Gateway(self.binary, self.config, self.log, under=self.under)

    @property
    def process(self):
        return self.gateway.process

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.gateway.log.close()

    def stop(self, seconds=10):
        code = self.gateway.end(seconds)
        assert code == 0, f"after SIGTERM it ended with {code}"

    def close(self):
        if self.gateway is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()
        self.holder.cleanup()

    # Requests

    def ask(self, port, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with contextlib.closing(connection):
            connection.request(
                "GET" if body is None else "POST", path, None if body is None else json.dumps(body),
                {"Content-Type": "application/json"})
            reply = connection.getresponse()
            text = reply.read().decode()
        assert reply.status == 200, f"{path} is answered {reply.status}: {text[:200]}"
        return text

    def infer(self, prompt="x", **fields):
        reply = json.loads(self.ask(self.port, "/webllm/api/infer", {"prompt": prompt, **fields}))
        self.answered.add(reply["request_id"])
        return reply

    def paces(self, count=60):
        """Seconds that requests one after the other take."""
        seconds = []
        for _ in range(count):
            started = time.monotonic()
            self.infer()
            seconds.append(time.monotonic() - started)
        return seconds

    def flood(self, count):
        """Requests that no upstream has to answer, ten thousand at a time."""
        self.ask(self.admin, "/admin/upstreams/u0/disable", {})
        for start in range(0, count, 10_000):
            prompts = ["x"] * min(10_000, count - start)
            results = json.loads(self.ask(self.port, "/webllm/api/infer/batch", {"prompts": prompts}))["results"]
            self.answered.update(result["request_id"] for result in results)
        self.ask(self.admin, "/admin/upstreams/u0/enable", {})

    # What it says of itself

    def said(self, message):
        """Its log lines with this message."""
        lines = self.log.read_text().split("\n")[:-1]  # the last one may not be whole yet
        return [json.loads(line) for line in lines if f'"msg":"{message}"' in line]

    def wait_said(self, message, seconds=5):
        wait_for(lambda: self.said(message), seconds, f"the log line {message!r}")
        return self.said(message)

    @property
    def status(self):
        return json.loads(self.ask(self.admin, "/admin/status"))["history"]

    @property
    def health(self):
        return json.loads(self.ask(self.port, "/webllm/api/health"))["status"]

    @property
    def alerts(self):
        return [alert["text"] for alert in json.loads(self.ask(self.admin, "/admin/alerts"))["alerts"]]

    @property
    def totals(self):
        reply = json.loads(self.ask(self.port, "/webllm/api/metrics"))
        return reply["metrics"] | {"rows": reply["inference_history_count"]}

    @property
    def samples(self):
        """Of /metrics, those of the history."""
        prefix = "webllm_gateway_history_"
        lines = self.ask(self.admin, "/metrics").splitlines()
        return {name.removeprefix(prefix): int(value) for name, value in
                (line.split() for line in lines if line.startswith(prefix))}

    def wait_degraded(self, reason):
        wait_for(lambda: self.status["state"] == "degraded", 10, "a degraded history")
        status = self.status
        assert status["reason"] == reason, f"degraded because {status['reason']!r}, and not {reason!r}"
        assert self.health == "degraded", f"the history is degraded, and health is {self.health}"
        assert any(f"The history is not written: {reason}" in text for text in self.alerts), self.alerts
        line = self.wait_said("history cannot be written; requests go on without it")[0]
        assert line["reason"] == reason and line["path"] == str(self.path), line

    def wait_written(self, seconds=15):
        """Until all is well, and the file has what the gateway says it has. A request is recorded after its answer."""
        def is_written():
            status = self.status
            try:
                return (status["state"] == "ok" and status["pending"] == 0
                        and status["rows"] >= len(self.answered) - self.lost
                        and self.table("SELECT count(*) FROM request") == [(status["rows"],)])
            except sqlite3.Error:
                return False
        wait_for(is_written, seconds, "a history that is written")
        assert self.alerts == [] and self.health == "healthy", f"{self.alerts}, {self.health}"

    # What is in the file

    @contextlib.contextmanager
    def database(self):
        with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as database:
            yield database

    def table(self, sql):
        with self.database() as database:
            return database.execute(sql).fetchall()

    def ids(self):
        rows = self.table("SELECT request_id FROM request")
        ids = {str(uuid.UUID(bytes=one)) for (one,) in rows}
        assert len(ids) == len(rows), "a request is there twice"
        return ids

    def check_file(self):
        """Whole, and at one with the totals. Returns the ids in it."""
        assert self.table("PRAGMA integrity_check") == [("ok",)], "the file is damaged"
        ids, totals = self.ids(), self.totals
        assert totals["rows"] == len(ids), f"{totals['rows']} rows are told, {len(ids)} are in the file"
        return ids

    @property
    def sidecars(self):
        """Bytes of the files beside the database file; SQLite keeps what it has not yet moved there in -wal."""
        return {one.name.removeprefix(self.path.name): one.stat().st_size
                for one in self.path.parent.glob(self.path.name + "-*")}


def assert_undisturbed(before, during):
    """Requests take what they took: a lock is waited for up to 1 s, so one that is held up shows."""
    usual, now = statistics.median(before), statistics.median(during)
    assert now < 2 * usual + 0.005, f"requests take {now * 1000:.1f} ms, and took {usual * 1000:.1f} ms"
    assert max(during) < 0.8, f"a request took {max(during):.2f} s"
