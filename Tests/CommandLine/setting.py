"""What the tests of the command line run against: two fake upstreams, and a gateway with an admin token."""
import json
import os
import pathlib
import queue
import re
import subprocess
import sys
import tempfile
import threading

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path += [str(TESTS / "Life"), str(TESTS / "Page")]
from fake_ollama import FakeOllama  # noqa: E402
from life import free_ports, wait_for  # noqa: E402

HOSTILE = "\x1b[2J\x1b]0;title\x07\rx\x9b31m"
LONG = "y" * 1000


class Model:
    """Answers as the prompt asks: `fail`, `hostile`, `long`, `wait` (a token, then nothing), else two tokens."""

    def __init__(self):
        self._server = FakeOllama()
        self.port = self._server.port
        self.prompts = []
        self.waiting = queue.Queue()
        self._isOver = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while not self._isOver.is_set():
            try:
                generation = self._server.next_chat(deadline=0.2)
            except queue.Empty:
                continue
            prompt = generation.body["messages"][-1]["content"]
            self.prompts.append(prompt)
            try:
                self._answer(generation, prompt)
            except OSError:
                pass  # the gateway left

    def _answer(self, generation, prompt):
        if prompt == "fail":
            generation.refuse(500, "no")
        elif prompt == "hostile":
            generation.answer(HOSTILE, " end")
        elif prompt == "long":
            generation.answer(*[LONG] * 400)
        elif prompt == "wait":
            generation.token("first")
            self.waiting.put(generation)
        elif prompt == "echo":
            generation.answer(prompt)
        else:
            generation.answer("Hello", " " + prompt)

    def close(self):
        self._isOver.set()
        self._server.close()


class Setting:
    def __init__(self, binary):
        self.binary = binary
        self.folder = tempfile.TemporaryDirectory(prefix="webllm-command-line-")
        self.first, self.second = Model(), Model()
        self.port, self.admin, self.closed = free_ports(3)
        self.socket, self.admin_socket = f"unix:{self.path('clients.sock')}", f"unix:{self.path('admin.sock')}"
        self.config = self.path("gateway.conf")
        self.log = self.path("log")
        made = json.loads(subprocess.run([binary, "token", "--json"], capture_output=True, check=True).stdout)
        self.token = made["token"]
        self.text = (
            f'[server]\nlisten = ["127.0.0.1:{self.port}", "{self.socket}"]\ndrain_timeout = "1s"\n'
            f'[admin]\nlisten = ["127.0.0.1:{self.admin}", "{self.admin_socket}"]\ntoken_hash = "{made["token_hash"]}"\n'
            f'[history]\npath = "{self.path("history.sqlite")}"\n'
            '[webllm]\ndefault_model = "m"\nfallback_message = ""\n'
            + "".join(
                f'[[upstream]]\nname = "{name}"\nkind = "ollama"\nurl = "http://127.0.0.1:{model.port}"\nmodel = "m"\n'
                'breaker = { failures = 1000, ratio = 1.0, min_requests = 100000 }\n'
                for name, model in [("first", self.first), ("second", self.second)])
            + '[[model]]\nid = "m"\n')
        self.config.write_text(self.text)
        # What deployments set would change the upstreams.
        clean = {name: value for name, value in os.environ.items()
                 if not name.startswith(("OLLAMA_", "LLM_", "WEBLLM_")) and name != "NO_COLOR"}
        self.environment = clean | {
            "WEBLLM_GATEWAY_ADDRESS": f"127.0.0.1:{self.port}",
            "WEBLLM_GATEWAY_ADMIN_ADDRESS": f"127.0.0.1:{self.admin}",
            "WEBLLM_GATEWAY_ADMIN_TOKEN": self.token, "TERM": "xterm"}
        with open(self.log, "wb") as log:
            status = os.fstat(log.fileno())
            # As systemd tells of a journal.
            journal = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
            self.process = subprocess.Popen(
                [binary, "serve", "--config", self.config], stderr=log, env=clean | journal)
        wait_for(lambda: '"listening"' in self.log.read_text(), 20, "the gateway")

    def path(self, name):
        return pathlib.Path(self.folder.name, name)

    def run(self, *arguments, code=0, stdin=None, **environment):
        """Runs a command in a pipe and gives its output; fails on any other exit code, and on what steers terminals."""
        done = subprocess.run(
            [self.binary, *map(str, arguments)], input=stdin, capture_output=True, timeout=30,
            stdin=subprocess.DEVNULL if stdin is None else None, env=self.environment | environment)
        out, errors = done.stdout.decode(), done.stderr.decode()
        assert done.returncode == code, f"{arguments} ended with {done.returncode}, not {code}: {out}{errors}"
        steering = re.search(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]", out + errors)
        assert not steering, f"{arguments} prints {steering!r}"
        if code:
            assert errors.startswith(("webllm-gateway: ", "Error: ")), f"{arguments} ends with {code}, and says {errors!r}"
        return out, errors

    def json(self, *arguments, **options):
        return json.loads(self.run(*arguments, "--json", **options)[0])

    def close(self):
        self.process.terminate()
        assert self.process.wait(timeout=20) == 0
        self.first.close()
        self.second.close()
        self.folder.cleanup()
