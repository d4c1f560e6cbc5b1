"""What the life-cycle tests share: processes, clients, figures of a process."""
import asyncio
import contextlib
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent


def wait_for(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"life: {what} did not come within {seconds} s")
        time.sleep(0.01)


def free_ports(count):
    """Ports that are free now, below those that the system gives to outgoing connections: of these, one would be taken
    before its server has it."""
    ports = []
    while len(ports) < count:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    return ports


class Upstream:
    kind, scheme = "ollama", "http"

    def __init__(self, port, pieces=3, pause=0.0):
        self.port, self.arguments = port, [str(pieces), str(pause)]
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, HERE / "upstream.py", str(self.port), *self.arguments], stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def stop(self, with_signal=signal.SIGKILL):
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(with_signal)
        self.process.wait()


class Gateway:
    def __init__(self, binary, config, log, *options, under=(), pass_fds=()):
        """`under`: a command that becomes the gateway, with what it changes first."""
        self.log = open(log, "ab")
        # What deployments set would change the upstreams.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OLLAMA_", "LLM_"))}
        # A crash tells where, in the log.
        environment["SWIFT_BACKTRACE"] = "enable=yes,color=no"
        self.process = subprocess.Popen(
            [*under, binary, "serve", "--config", config, *options], stderr=self.log, env=environment,
            pass_fds=pass_fds)

    def has_logged(self, text, log):
        return text in pathlib.Path(log).read_text()

    def memory_kib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def end(self, seconds=40):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=seconds)
        self.log.close()
        return code


# Upstreams that are missed soon, and tried again soon.
EACH = """max_in_flight = 200
max_queue = 1000
timeouts = { connect = "1s", first_token = "2s", idle = "2s" }
breaker = { open = "1s", max_open = "3s" }
health = { interval = "500ms", timeout = "500ms" }
"""
# Timers that no case waits for.
PATIENT = EACH.replace('first_token = "2s", idle = "2s"', 'first_token = "1m", idle = "1m"')


def write_config(path, port, admin, upstreams, extra="", history=None, each=EACH):
    """`extra` is more of [server], and further tables; `history` is the text of [history], whose file lies beside the
    configuration by default; `each` is what all upstreams have. Who reads the file meanwhile sees it whole."""
    path = pathlib.Path(path)
    history = history or f'path = "{path.parent}/history.sqlite"'
    text = (f'[server]\nlisten = ["127.0.0.1:{port}"]\n{extra}\n[admin]\nlisten = ["127.0.0.1:{admin}"]\n'
            f'[history]\n{history}\n')
    for index, upstream in enumerate(upstreams):
        text += (f'[[upstream]]\nname = "u{index}"\nkind = "{upstream.kind}"\n'
                 f'url = "{upstream.scheme}://127.0.0.1:{upstream.port}"\nmodel = "m"\n{each}')
    written = path.with_suffix(".new")
    written.write_text(text)
    written.replace(path)


class Cut(Exception):
    """The connection ended before the reply was whole."""


async def read_reply(reader):
    """Head and body of one reply, to the end that its framing promises."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status = int(head.split(" ")[1])
        lower = head.lower()
        if "transfer-encoding: chunked" in lower:
            body = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            body = await reader.readexactly(int(re.search(r"content-length: (\d+)", lower)[1]))
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise Cut(str(error)) from error
    return status, lower, body.decode()


def infer_request(prompt, stream=False):
    body = json.dumps({"prompt": prompt, "stream": stream}).encode()
    return (b"POST /webllm/api/infer HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
