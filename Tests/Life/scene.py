"""What the cases of signals.py and faults.py share: models that do as they are told, a gateway in front of them, and
the look afterwards: nothing is left, and each request has its line in the log."""
import argparse
import asyncio
import collections
import contextlib
import inspect
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import traceback

from life import PATIENT, Cut, Gateway, infer_request, read_reply, write_config

CASES = []
LOOPS = 2


def case(title):
    def add(function):
        CASES.append((title, function))
        return function
    return add


async def until(condition, what, seconds=30):
    """`condition` is a function, or a coroutine function."""
    end = time.monotonic() + seconds
    while not (await holds if inspect.isawaitable(holds := condition()) else holds):
        assert time.monotonic() < end, f"within {seconds} s: {what}"
        await asyncio.sleep(0.01)


def reset(writer):
    """Closes the connection with RST."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Generation:
    """A request that has come to a model, and its answer, step by step."""

    def __init__(self, prompt, writer):
        self.prompt, self.writer = prompt, writer
        self.has_begun = False

    async def begin(self):
        self.has_begun = True
        self.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await self.writer.drain()

    async def piece(self, text, done=False):
        if not self.has_begun:
            await self.begin()
        line = json.dumps({"model": "m", "message": {"role": "assistant", "content": text}, "done": done}).encode()
        self.writer.write(b"%x\r\n%s\n\r\n" % (len(line) + 1, line))
        await self.writer.drain()

    async def end(self):
        await self.piece("", done=True)
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()


async def whole(generation):
    for index in range(3):
        await generation.piece(f"{generation.prompt}-{index} ")
    await generation.end()


class Model:
    """An Ollama look-alike in this process, or a /query/ backend. `answer` is given each Generation; where its client
    leaves, it is cancelled."""

    scheme = "http"

    def __init__(self, answer=whole, kind="ollama"):
        self.answer, self.kind = answer, kind
        self._server, self._fillers = None, []
        self.running, self.connections = set(), set()
        self.answered = self.most_connections = 0
        # Keeps the port while the model is down.
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.port = self._holder.getsockname()[1]

    async def start(self, tls=None):
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, backlog=1024, reuse_port=True, ssl=tls)

    def stop(self):
        if self._server is not None:
            self._server.close()
        for writer in list(self.connections):
            writer.transport.abort()

    def fall_silent(self):
        """From now on no handshake with it is completed: its queue is full, and the kernel drops what else comes."""
        self.stop()
        self._holder.listen(0)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)

    def close(self):
        self.stop()
        for one in [self._holder, *self._fillers]:
            one.close()

    async def probe(self, reader, writer):
        body = b'{"version":"1","models":[{"name":"m:latest"}]}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()

    async def _serve(self, reader, writer):
        self.connections.add(writer)
        self.most_connections = max(self.most_connections, len(self.connections))
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                length = re.search(rb"content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                if head.startswith(b"get"):
                    await self.probe(reader, writer)
                else:
                    asked = json.loads(body)
                    if asked.get("messages") == []:
                        await self._load(writer)
                        continue
                    prompt = asked["query"] if self.kind == "query" else asked["messages"][-1]["content"]
                    await self._generate(prompt, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.connections.discard(writer)
            writer.close()

    async def _load(self, writer):
        """What a gateway asks whose list of loaded models came late."""
        body = b'{"model":"m","done":true,"done_reason":"load"}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()

    async def _generate(self, prompt, reader, writer):
        generation = Generation(prompt, writer)
        answer, left = asyncio.create_task(self.answer(generation)), asyncio.create_task(reader.read(1))
        self.running.add(generation)
        try:
            await asyncio.wait([answer, left], return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ConnectionResetError
            answer.result()
            self.answered += 1
        finally:
            self.running.discard(generation)
            answer.cancel()
            left.cancel()
            await asyncio.wait([answer, left])


class TLSModel(Model):
    """The same behind TLS, with a certificate of its own in `folder`."""
    scheme = "https"

    def __init__(self, folder):
        super().__init__()
        self.certificate, self._key = pathlib.Path(folder, "certificate.pem"), pathlib.Path(folder, "key.pem")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
             "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", self._key,
             "-out", self.certificate], check=True, capture_output=True)

    async def start(self):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.certificate, self._key)
        await super().start(tls)

    async def end_connections(self):
        """As a server does that has waited long enough, or is restarted: with a close_notify."""
        for writer in list(self.connections):
            writer.close()
        await until(lambda: not self.connections, "the gateway has taken the end")


class Reply:
    def __init__(self, status, head, body):
        self.status, self.head, self.body = status, head, body

    @property
    def id(self):
        return re.search(r"x-request-id: (\S+)", self.head)[1]

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def events(self):
        """Of a stream: names and data, in order."""
        blocks = [block.split("\n", 1) for block in self.body.split("\n\n") if block]
        return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]

    @property
    def text(self):
        return "".join(data["text"] for name, data in self.events if name == "token")

    @property
    def end(self):
        """The last event of a stream, or the status of a plain reply."""
        return self.events[-1][0] if "text/event-stream" in self.head else self.status


class Scene:
    """A gateway in front of models, and all that is asked of it."""

    def __init__(self, binary, patience, models, each, server):
        self.binary, self.patience, self.models = binary, patience, models
        self.each, self.server = each, server
        self._folder = tempfile.TemporaryDirectory(prefix="webllm-life-")
        self.folder = pathlib.Path(self._folder.name)
        self.config, self.log = self.folder / "gateway.conf", self.folder / "log"
        # The system chooses, and the log tells.
        self.ports = (0, 0)
        self._operator = None
        self.asked, self.ids = 0, []
        self.has_log = True
        self.configure()

    def configure(self, extra=""):
        settings = f"threads = {LOOPS}\n{self.server}\n{extra}"
        write_config(self.config, *self.ports, self.models, settings, each=self.each)

    # Life cycle

    async def start(self, under=()):
        self.gateway = Gateway(self.binary, self.config, self.log, under=under)
        self.process = self.gateway.process
        await until(lambda: self._is_ready() or self.process.poll() is not None, "the gateway listens")
        assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.log.read_text()[-500:]}"

    def _is_ready(self):
        if 0 in self.ports:
            lines = self.said("listening") + self.said("listening for operators")
            if len(lines) < 2:
                return False
            self.ports = tuple(int(line["address"].rsplit(":", 1)[1]) for line in lines)
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.ports[1])) == 0

    async def note_base(self):
        """What the gateway has open before the case, when all that is opened once is open: each loop had requests."""
        for _ in range(2 * LOOPS):
            await self.ask("base")
        await until(lambda: not any(model.running for model in self.models), "the first request is over")
        await self.operator("GET", "/admin/status")
        await until(lambda: all(self._runs_its_own_program(child) for child in self._children()), "children have begun")
        self.base = self.descriptors()

    def signal(self, number):
        self.process.send_signal(number)

    async def ended(self, seconds):
        """The exit code of a gateway that ends by itself."""
        end = time.monotonic() + seconds
        await until(lambda: self.process.poll() is not None, "the gateway ends", end - time.monotonic())
        self._forget_operator()
        return self.process.returncode

    def kill(self):
        self._forget_operator()
        self.process.kill()
        self.process.wait()

    def close(self):
        self.kill()
        self.gateway.log.close()
        self._folder.cleanup()

    # Requests

    async def connect(self):
        return await asyncio.open_connection("127.0.0.1", self.ports[0])

    async def ask(self, prompt="x", stream=False):
        """One request on a connection of its own, and its whole reply; Cut where it ends before."""
        reader, writer = await self.connect()
        try:
            self.asked += 1
            writer.write(infer_request(prompt, stream))
            return self.note(await read_reply(reader))
        finally:
            writer.close()

    async def get(self, path):
        """The same for a page."""
        reader, writer = await self.connect()
        try:
            self.asked += 1
            writer.write(f"GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n".encode())
            return self.note(await read_reply(reader))
        finally:
            writer.close()

    def begin(self, *prompts, stream=True):
        return [asyncio.create_task(self.ask(prompt, stream)) for prompt in prompts]

    def note(self, reply):
        reply = Reply(*reply)
        self.ids.append(reply.id)
        return reply

    async def operator(self, method, path):
        """A request on the one connection that operators keep, until they are told to close it."""
        if self._operator is None:
            self._operator = await asyncio.open_connection("127.0.0.1", self.ports[1])
        reader, writer = self._operator
        self.asked += 1
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     "Content-Length: 0\r\n\r\n".encode())
        reply = self.note(await read_reply(reader))
        if "connection: close" in reply.head:
            self._forget_operator()
        return reply

    def _forget_operator(self):
        if self._operator is not None:
            self._operator[1].close()
            self._operator = None

    # What is seen of it

    def tell_failed(self):
        """For a case that failed: where a gateway has crashed, or the end of its log where it runs still."""
        code, log = self.process.poll(), self.log.read_text()
        crash = log.find("\n*** ")
        if code is None or (code < 0 and code != -signal.SIGKILL):
            told = log[crash:][:8000] if crash >= 0 else log[-4000:]
            print(f"gateway on ports {self.ports}, exit code {code}:\n{told}", flush=True)

    @property
    def lines(self):
        """Of the log; the last one may not be whole yet."""
        return [json.loads(line) for line in self.log.read_text().split("\n")[:-1]]

    def said(self, message):
        return [line for line in self.lines if line["msg"] == message]

    async def status(self):
        return (await self.operator("GET", "/admin/status")).json

    async def upstream(self):
        """The status of the first one."""
        return (await self.status())["upstreams"][0]

    async def sample(self, name):
        """One figure of /metrics."""
        text = (await self.operator("GET", "/metrics")).body
        return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)[1])

    def _sockets_to_models(self):
        """With those that both ends have ended, which are in no table: curl lets go of them at its next look."""
        ports = {f"{model.port:04X}" for model in self.models}
        listed = {name: [line.split() for line in pathlib.Path("/proc/net", name).read_text().splitlines()[1:]]
                  for name in ["tcp", "tcp6", "unix"]}
        known = {f"socket:[{row[6 if name == 'unix' else 9]}]" for name, rows in listed.items() for row in rows}
        ended = {one for one in self._open() if one.startswith("socket:") and one not in known}
        return ended | {f"socket:[{row[9]}]" for row in listed["tcp"] if row[2].rsplit(":", 1)[1] in ports}

    def connections_to_models(self):
        to_models = self._sockets_to_models()
        return sum(one in to_models for one in self._open())

    def _open(self):
        folder = f"/proc/{self.process.pid}/fd"
        for name in os.listdir(folder):
            try:
                yield os.readlink(f"{folder}/{name}")
            except FileNotFoundError:
                pass

    def _children(self):
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                yield from (task / "children").read_text().split()

    def _runs_its_own_program(self, child):
        """Until then it has a copy of each descriptor that the gateway has. One that has ended counts too."""
        try:
            return os.readlink(f"/proc/{child}/exe") != os.readlink(f"/proc/{self.process.pid}/exe")
        except OSError:
            return True

    def _pipes_to_children(self):
        of_children = set()
        for child in self._children():
            if self._runs_its_own_program(child):
                with contextlib.suppress(OSError):
                    of_children |= {os.readlink(one) for one in pathlib.Path(f"/proc/{child}/fd").iterdir()}
        return {one for one in of_children if one.startswith("pipe:")}

    def descriptors(self):
        """By kind. Without connections to models, which stay open for the next request, without timers, of which the
        runtime opens one when it first needs it, and without pipes to children: a sanitizer starts its symbolizer."""
        left_out = self._sockets_to_models() | self._pipes_to_children() | {"anon_inode:[timerfd]"}
        return collections.Counter(re.sub(r"\d+", "", one) for one in self._open() if one not in left_out)

    async def _left(self):
        status = await self.status()
        left = {name: status[name] for name in ["connections", "running", "transfers"]}
        for upstream in status["upstreams"]:
            left[f"{upstream['name']} in flight"] = upstream["in_flight"]
            left[f"{upstream['name']} queued"] = upstream["queued"]
        left |= self.descriptors() - self.base
        most = sum(1 + model.most_connections for model in self.models)
        left["connections to models"] = max(0, self.connections_to_models() - most)
        return {name: count for name, count in left.items() if count}

    async def check_nothing_is_left(self):
        end = time.monotonic() + 2 * self.patience
        while left := await self._left():
            assert time.monotonic() < end, f"2 s later there are still {left}"
            await asyncio.sleep(0.05)

    def check_lines(self):
        """Of a gateway that has ended by itself, so that its whole log is there."""
        logged = [line["request_id"] for line in self.said("request")]
        assert len(set(logged)) == len(logged), "a request has two lines in the log"
        missing = set(self.ids) - set(logged)
        assert not missing, f"{len(missing)} requests have no line in the log"
        assert len(logged) == self.asked, f"{self.asked} requests were sent, and the log has {len(logged)}"


class Bench:
    """What a case gets. `quick` is for sanitizers: fewer rounds, and more patience."""

    def __init__(self, binary, quick):
        self.binary, self.quick, self.patience = binary, quick, 5 if quick else 3
        self.scenes, self.models = [], []
        self._folder = tempfile.TemporaryDirectory(prefix="webllm-life-")
        self.folder = pathlib.Path(self._folder.name)

    async def scene(self, *models, each=PATIENT, server="", under=(), ports=(0, 0)):
        for model in models:
            if model not in self.models:
                await model.start()
                self.models.append(model)
        scene = Scene(self.binary, self.patience, models, each, server)
        self.scenes.append(scene)
        if 0 not in ports:
            scene.ports = ports
            scene.configure()
        await scene.start(under)
        await scene.note_base()
        return scene

    async def check(self):
        for scene in self.scenes:
            if scene.process.poll() is None:
                await scene.check_nothing_is_left()
                scene.signal(signal.SIGTERM)
                code = await scene.ended(10 * self.patience)
                assert code == 0, f"after the case SIGTERM ends it with {code}"
            if scene.process.returncode == 0 and scene.has_log:
                scene.check_lines()

    def close(self):
        for scene in self.scenes:
            scene.close()
        for model in self.models:
            model.close()
        self._folder.cleanup()


async def _run_case(function, binary, quick):
    bench = Bench(binary, quick)
    try:
        told = await asyncio.wait_for(function(bench), 120 * bench.patience)
        await bench.check()
        return told or ""
    except BaseException:
        for scene in bench.scenes:
            scene.tell_failed()
        raise
    finally:
        for scene in bench.scenes:
            text = scene.log.read_text()
            if "Sanitizer" in text:
                print(text[text.index("Sanitizer") - 200:][:6000])
        bench.close()


def run_cases(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True, type=pathlib.Path)
    parser.add_argument("--only", default="", help="run the cases whose title contains this")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and more patience, for sanitizers")
    options = parser.parse_args()
    failed = 0
    for title, function in CASES:
        if options.only not in title:
            continue
        started = time.monotonic()
        try:
            told = "ok " + asyncio.run(_run_case(function, options.gateway.resolve(), options.quick))
        except (AssertionError, Cut, OSError) as error:
            if not isinstance(error, AssertionError):
                traceback.print_exc()
            failed += 1
            told = f"FAILED: {type(error).__name__}: {error}"
        print(f"{title}: {told.strip()} ({time.monotonic() - started:.1f} s)", flush=True)
    return 1 if failed else 0
