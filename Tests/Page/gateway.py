"""The gateway under test, as a process of its own."""

import json
import os
import pathlib
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "Life"))
from life import free_ports  # noqa: E402


def refused_port():
    """A port that nothing listens on, and that stays taken until the socket is closed."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    return holder, holder.getsockname()[1]


def upstream(port, name="ollama"):
    return (
        f'[[upstream]]\nname = "{name}"\nkind = "ollama"\nurl = "http://127.0.0.1:{port}"\nmodel = "m"\n'
        'health = { interval = "1s", timeout = "5s", fall = 1, rise = 1 }\n'
    )


class Gateway:
    def __init__(self, binary, upstreams, webllm="", admin="", server=""):
        self.port, self.admin_port = free_ports(2)
        self._binary = binary
        self._directory = tempfile.TemporaryDirectory(prefix="webllm-page-")
        self._configuration = pathlib.Path(self._directory.name, "gateway.conf")
        self._configuration.write_text(
            f'[server]\nlisten = ["127.0.0.1:{self.port}"]\ndrain_timeout = "0s"\n{server}\n'
            f'[admin]\nlisten = ["127.0.0.1:{self.admin_port}"]\n{admin}\n[webllm]\n{webllm}\n'
            f'[history]\npath = "{self._directory.name}/history.sqlite"\n' + "".join(upstreams)
        )
        self.start()

    def start(self):
        # What deployments set would change the upstreams.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OLLAMA_", "LLM_"))}
        self._process = subprocess.Popen(
            [self._binary, "serve", "--config", self._configuration],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
        )
        self._lines = queue.Queue()
        threading.Thread(target=self._read, args=(self._process.stderr, self._lines), daemon=True).start()
        self.wait_for("listening")

    @staticmethod
    def _read(source, lines):
        for line in source:
            lines.put(line)
        lines.put(None)

    def wait_for(self, message, deadline=10):
        """The next log line with this message."""
        seen = []
        while True:
            try:
                line = self._lines.get(timeout=deadline)
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"no log line {message!r}; the gateway said: {''.join(seen)[-2000:]}")
            seen.append(line)
            try:
                if json.loads(line).get("msg") == message:
                    return json.loads(line)
            except ValueError:
                pass

    @property
    def page(self):
        return f"http://127.0.0.1:{self.port}/webllm/"

    @property
    def dashboard(self):
        return f"http://127.0.0.1:{self.admin_port}/dashboard"

    def admin(self, path):
        """What the admin listener answers, read from its JSON."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/admin/{path}", timeout=5) as reply:
            return json.load(reply)

    def kill(self):
        self._process.kill()
        self._process.wait()

    def close(self):
        self.kill()
        self._directory.cleanup()
