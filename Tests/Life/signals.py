#!/usr/bin/env python3
"""The process's life: signals, ends, starts and reloads while requests run.

    Tests/Life/signals.py --gateway .build/debug/webllm-gateway [--only WORD] [--quick]
"""
import asyncio
import collections
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

from life import Cut, free_ports, infer_request, read_reply
from scene import PATIENT, Model, case, run_cases, until, whole


# One that nobody asks.
UPSTREAM = '[[upstream]]\nname = "u"\nkind = "query"\nurl = "http://127.0.0.1:9/"\n'


class Held:
    """Answers a first piece, and the rest once `go` is set; at once what a scene asks on its own account."""

    def __init__(self):
        self.go = asyncio.Event()

    async def __call__(self, generation):
        await generation.piece("first ")
        if generation.prompt != "base":
            await self.go.wait()
        await generation.piece("last")
        await generation.end()


class Steps:
    """Answers pieces as they are allowed, so that many streams go on in step."""

    def __init__(self):
        self.allowed, self._more = 1, asyncio.Condition()

    async def allow(self, pieces):
        async with self._more:
            self.allowed = pieces
            self._more.notify_all()

    async def __call__(self, generation):
        for index in range(10):
            async with self._more:
                await self._more.wait_for(lambda: index < self.allowed or generation.prompt == "base")
            await generation.piece(f"{generation.prompt}-{index} ")
        await generation.end()


async def upload(scene, sends):
    """A request whose body has begun; its rest is sent after the event."""
    reader, writer = await scene.connect()
    request = infer_request("uploaded")
    scene.asked += 1
    writer.write(request[:-10])
    await sends.wait()
    writer.write(request[-10:])
    try:
        return scene.note(await read_reply(reader))
    finally:
        writer.close()


async def busy(bench, drain):
    """A gateway with 100 streams that run, 100 requests that wait, half of them streams, and an unfinished upload."""
    held = Held()
    model = Model(held)
    each = 'max_in_flight = 100\nmax_queue = 1000\nqueue_timeout = "1m"\n'
    scene = await bench.scene(model, each=each, server=f'drain_timeout = "{drain}s"')
    streams = scene.begin(*["x"] * 100)
    await until(lambda: len(model.running) == 100, "100 streams run")
    queued = scene.begin(*["x"] * 50) + scene.begin(*["x"] * 50, stream=False)
    sends = asyncio.Event()
    uploaded = asyncio.create_task(upload(scene, sends))

    async def are_queued():
        return (await scene.upstream())["queued"] == 100
    await until(are_queued, "100 requests wait")
    return scene, held.go, streams, queued, uploaded, sends


# Ends

@case("S16 SIGTERM: what can end within the drain time does")
async def _(bench):
    scene, go, streams, queued, uploaded, sends = await busy(bench, drain=60)
    scene.signal(signal.SIGTERM)

    async def drains():
        return (await scene.status())["draining"]
    await until(drains, "it drains")
    go.set()
    sends.set()
    started = time.monotonic()
    replies = await asyncio.gather(*streams, *queued, uploaded)
    assert all(reply.end in ("done", 200) for reply in replies), [reply.end for reply in replies]
    code = await scene.ended(20 * bench.patience)
    assert code == 0, f"it ended with {code}"
    return f"201 answers, ended after {time.monotonic() - started:.1f} s"


@case("S16 SIGTERM: what cannot is told so when the drain time is over")
async def _(bench):
    scene, _, streams, queued, uploaded, sends = await busy(bench, drain=2)
    scene.signal(signal.SIGTERM)
    started = time.monotonic()
    code = await scene.ended(30)
    took = time.monotonic() - started
    ended = await asyncio.gather(*streams, *queued, return_exceptions=True)
    sends.set()
    ended += await asyncio.gather(uploaded, return_exceptions=True)
    assert code == 0, f"it ended with {code}"
    # One second is its own; one is for a slow machine.
    assert 2 <= took < 3 + bench.patience, f"a drain time of 2 s took {took:.1f} s"
    told = [repr(one) if isinstance(one, Exception) else one.end for one in ended]
    assert told[:100] == ["error"] * 100, f"streams: {told[:100]}"
    assert told[100:200] == [503] * 100, f"queued: {told[100:200]}"
    assert told[200] in (408, 503), f"the upload: {told[200]}"
    return f"ended after {took:.1f} s"


@case("S16 SIGTERM: idle")
async def _(bench):
    scene = await bench.scene(Model())
    started = time.monotonic()
    scene.signal(signal.SIGTERM)
    assert await scene.ended(20) == 0
    took = time.monotonic() - started
    assert took < 3 * bench.patience, f"it took {took:.1f} s"


@case("S17 a second SIGTERM or SIGINT ends at once")
async def _(bench):
    # Two of one kind at once may be one to the kernel: two kinds cannot.
    other = {signal.SIGTERM: signal.SIGINT, signal.SIGINT: signal.SIGTERM}
    model = Model(Held())
    rounds = 1 if bench.quick else 10
    few = asyncio.Semaphore(4)

    async def twice(first, second, gap):
        async with few:
            scene = await bench.scene(model, server='drain_timeout = "1m"')
            [stream] = scene.begin(scene.folder.name)
            await until(lambda: any(one.prompt == scene.folder.name for one in model.running), "a stream runs")
            scene.signal(first)
            await asyncio.sleep(gap)
            scene.signal(second)
            try:
                code = await scene.ended(1 * bench.patience)
                told = f"ends with {code}"
            except AssertionError:
                code, told = None, "goes on"
            scene.kill()
            await asyncio.gather(stream, return_exceptions=True)
            return None if code == 1 else f"{first.name}, {gap} s, {second.name}: {told}"

    ends = await asyncio.gather(*[
        twice(first, first if gap else other[first], gap)
        for gap in [0, 0.1, 0.3, 1] for first in other for _ in range(rounds)])
    wrong = collections.Counter(filter(None, ends))
    assert not wrong, f"of {rounds} each: {dict(wrong)}"
    return f"{len(ends)} times"


@case("S18 SIGKILL in mid-stream: clients see it, and the next process has the address at once")
async def _(bench):
    held = Held()
    scene = await bench.scene(Model(held))
    model = scene.models[0]
    streams = scene.begin(*["x"] * 20)
    plain = scene.begin(*["x"] * 20, stream=False)
    await until(lambda: len(model.running) == 40, "all run")
    scene.configure()  # now with the ports that it has
    scene.signal(signal.SIGKILL)
    for ended in await asyncio.gather(*streams, *plain, return_exceptions=True):
        assert isinstance(ended, (Cut, ConnectionError)), f"not seen as broken: {ended.body}"
    await scene.ended(5)
    await until(lambda: not model.running, "the model is free")
    held.go.set()
    scene.gateway.log.close()
    scene.log.write_text("")
    scene.asked, scene.ids = 0, []
    started = time.monotonic()
    await scene.start()
    took = time.monotonic() - started
    assert took < 2 * bench.patience, f"a start after SIGKILL took {took:.1f} s"
    await scene.note_base()
    assert (await scene.ask()).status == 200


# Signals that do not end it

@case("S17 a thousand SIGHUPs: no request fails, and the last configuration is in force")
async def _(bench):
    scene = await bench.scene(Model())
    count = 200 if bench.quick else 1000
    ends, running = [], True

    async def client(stream):
        while running:
            ends.append((await scene.ask("x", stream)).end)

    clients = [asyncio.create_task(client(number % 2 == 0)) for number in range(8)]
    for number in range(count):
        scene.configure(f'[webllm]\ndefault_model = "number-{number}"')
        scene.signal(signal.SIGHUP)
        await asyncio.sleep(0)

    async def is_in_force():
        return (await scene.operator("GET", "/admin/explain")).json["model"] == f"number-{count - 1}"
    await until(is_in_force, "the last configuration is in force", 20 * bench.patience)
    running = False
    await asyncio.gather(*clients)
    assert set(ends) == {"done", 200}, set(ends)
    refused = await scene.sample('webllm_gateway_reloads_total{result="refused"}')
    done = await scene.sample('webllm_gateway_reloads_total{result="ok"}')
    assert refused == 0 and done >= 1, f"{done} reloads, {refused} refused"
    return f"{len(ends)} requests, {done:.0f} reloads"


@case("S17 SIGPIPE is ignored")
async def _(bench):
    scene = await bench.scene(Model())
    for _ in range(10):
        scene.signal(signal.SIGPIPE)
        assert (await scene.ask()).status == 200


@case("S17 SIGSTOP for 3 s: streams go on, and no upstream is given up")
async def _(bench):
    steps = Steps()
    # Its timers pass meanwhile, and what they wait for has come when it goes on.
    scene = await bench.scene(Model(steps), each=PATIENT.replace('idle = "1m"', 'idle = "2s"'))
    streams = scene.begin(*[f"s{number}" for number in range(20)])
    await until(lambda: len(scene.models[0].running) == 20, "20 streams run")
    scene.signal(signal.SIGSTOP)
    for pieces in range(2, 8):
        await steps.allow(pieces)
        await asyncio.sleep(0.5)
    scene.signal(signal.SIGCONT)
    await steps.allow(10)
    replies = await asyncio.gather(*streams)
    for number, reply in enumerate(replies):
        assert reply.text == "".join(f"s{number}-{index} " for index in range(10)), reply.body
        assert reply.end == "done", reply.body
    lost = scene.said("upstream is down") + scene.said("breaker opened")
    assert not lost, lost


# Starts

@case("S19 an address that cannot be had: one line, exit code 1")
async def _(bench):
    scene = await bench.scene(Model())
    config = scene.folder / "second.conf"

    def start(port, admin, host="127.0.0.1"):
        config.write_text(
            f'[server]\nlisten = ["{host}:{port}"]\n[admin]\nlisten = ["127.0.0.1:{admin}"]\n'
            f'[history]\npath = ":memory:"\n{UPSTREAM}')
        started = time.monotonic()
        ended = subprocess.run(
            [scene.binary, "serve", "--config", config], capture_output=True, text=True, timeout=20 * bench.patience)
        took = time.monotonic() - started
        assert took < 2 * bench.patience, f"it took {took:.1f} s"
        assert ended.returncode == 1, f"it ended with {ended.returncode}"
        assert not ended.stdout and ended.stderr.count("\n") == 1, (ended.stdout, ended.stderr)
        return ended.stderr

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        for port, ports in [(taken, (taken, 0)), (taken, (0, taken)), (scene.ports[0], (scene.ports[0], 0)),
                            (scene.ports[1], (0, scene.ports[1]))]:
            line = await asyncio.to_thread(start, *ports)
            assert f"cannot listen on 127.0.0.1:{port}: the address is in use" in line, line
    # TEST-NET-1 of RFC 5737 is on no machine.
    line = await asyncio.to_thread(start, 0, 0, "192.0.2.1")
    assert "cannot listen on 192.0.2.1:0: this machine has no such address" in line, line
    assert (await scene.ask()).status == 200, "the one that has the address is disturbed"


@case("S11 a file with a secret that others can read: a warning, without the secret")
async def _(bench):
    config = bench.folder / "secret.conf"
    config.write_text(f'{UPSTREAM}api_key = "hidden-secret"\n')
    for mode, warns in [(0o644, True), (0o604, True), (0o640, False), (0o600, False)]:
        config.chmod(mode)
        ended = subprocess.run([bench.binary, "check", "--config", config], capture_output=True, text=True, timeout=30)
        assert ended.returncode == 0, ended.stderr
        assert ("can be read by other users" in ended.stderr) == warns, f"{mode:o}: {ended.stderr!r}"
        assert "hidden-secret" not in ended.stdout + ended.stderr


@case("X26 a line break in a name, an address or a key: refused at the start")
async def _(bench):
    config = bench.folder / "breaks.conf"
    upstream = {"name": "u", "kind": "query", "url": "http://127.0.0.1:9/", "api_key": "k"}

    def start(values):
        config.write_text("[[upstream]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
        return subprocess.run([bench.binary, "check", "--config", config], capture_output=True, text=True, timeout=30)

    assert start(upstream).returncode == 0
    for key in ["name", "url", "api_key"]:
        ended = start(upstream | {key: upstream[key] + "\r\nX-Evil: y"})
        assert ended.returncode == 78 and f"upstream[0].{key}: " in ended.stderr, (key, ended.stderr)


# Reloads

SPOILED = {
    "syntax error": ("[server\n", "gateway.conf:1:"),
    "unknown key": ('[server]\nmax_bdy = "1MiB"\n', "server.max_bdy: unknown key"),
    "upstream that is there twice": (UPSTREAM * 2, "upstream[1].name: "),
    "empty file": ("", "upstream: missing"),
    "file that is half written": ('[[upstream]]\nname = "u"\nkind = "oll', "gateway.conf:3:"),
    "missing file": (None, "no such file"),
}


@case("S08 a reload that is refused: the old configuration stays, and the reason is told")
async def _(bench):
    scene = await bench.scene(Model())
    good = scene.config.read_text()

    async def check_refused(name, reason, times):
        said = "configuration not reloaded; the old one stays"
        await until(lambda: len(scene.said(said)) == times, f"{name}: a line in the log")
        assert reason in scene.said(said)[-1]["reason"], f"{name}: {scene.said(said)[-1]}"
        assert await scene.sample('webllm_gateway_reloads_total{result="refused"}') == times, name
        assert (await scene.ask()).json["text"] == "x-0 x-1 x-2", name

    for times, (name, (text, reason)) in enumerate(SPOILED.items(), 1):
        if text is None:
            scene.config.unlink()
        else:
            scene.config.write_text(text)
        reply = await scene.operator("POST", "/admin/reload")
        assert reply.status == 409 and reason in reply.json["reason"], f"{name}: {reply.status} {reply.body}"
        await check_refused(name, reason, times)
    scene.signal(signal.SIGHUP)
    await check_refused(f"{name}, by SIGHUP", reason, times + 1)
    scene.config.write_text(good)
    assert (await scene.operator("POST", "/admin/reload")).status == 200
    assert await scene.sample('webllm_gateway_reloads_total{result="ok"}') == 1


@case("S09 streams that run through reloads are as they are without")
async def _(bench):
    steps = Steps()
    scene = await bench.scene(Model(steps))
    prompts = [f"s{number}" for number in range(20)]

    async def run(between):
        await steps.allow(1)
        streams = scene.begin(*prompts)
        await until(lambda: len(scene.models[0].running) == 20, "20 streams run")
        for pieces in range(2, 11):
            await between(pieces)
            await steps.allow(pieces)
        # What differs from one request to the next: its id, times and clock.
        varying = r'"(request_id|timestamp)":"[^"]*"|"inference_time_ms":[\d.]+'
        return [re.sub(varying, "", reply.body) for reply in await asyncio.gather(*streams)]

    async def reload(pieces):
        scene.configure(f'[webllm]\nsystem_prompt = "reload {pieces}"')
        assert (await scene.operator("POST", "/admin/reload")).status == 200

    async def nothing(_):
        pass

    undisturbed = await run(nothing)
    assert undisturbed[0].count("event: token") == 10 and "event: done" in undisturbed[0], undisturbed[0]
    assert await run(reload) == undisturbed


# Logs

async def flood(scene, count):
    """Requests in pipelines, so that many log lines come at once."""
    async def pipeline(count):
        reader, writer = await scene.connect()
        writer.write(b"GET /webllm/api/models HTTP/1.1\r\nHost: gateway\r\n\r\n" * count)
        for _ in range(count):
            assert (await read_reply(reader))[0] == 200
        writer.close()

    for _ in range(count // 5000):
        await asyncio.gather(*[pipeline(500) for _ in range(10)])
    scene.asked += count


@case("S20 a log that nobody reads costs lines, which are counted")
async def _(bench):
    fifo = f"{bench.folder}/log"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        scene = await bench.scene(
            Model(), ports=free_ports(2), under=["sh", "-c", f'exec "$0" "$@" 2>{fifo}'])
        scene.has_log = False
        while (await scene.status())["log_lines_dropped"] == 0:
            assert scene.asked < 100_000, "100 000 lines that nobody reads, and none is dropped"
            await flood(scene, 5000)
        assert (await scene.ask()).status == 200
        log = bytearray()
        asyncio.get_running_loop().add_reader(reader, lambda: log.extend(os.read(reader, 1 << 20)))
        # What waits is taken; then a line comes through again.
        while (last := await scene.ask()).id.encode() not in log:
            await asyncio.sleep(0.2)
        asked, dropped = scene.asked, (await scene.status())["log_lines_dropped"]
        written = log[:log.index(last.id.encode())].count(b'"msg":"request"')
        assert written + dropped == asked, f"{asked} requests, {written} lines and {dropped} dropped"
        return f"{asked} requests, {dropped} lines dropped"
    finally:
        asyncio.get_running_loop().remove_reader(reader)
        os.close(reader)


@case("S20 a log whose reader is gone costs lines, which are counted")
async def _(bench):
    fifo = f"{bench.folder}/log"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    scene = await bench.scene(Model(), ports=free_ports(2), under=["sh", "-c", f'exec "$0" "$@" 2>{fifo}'])
    scene.has_log = False
    os.close(reader)
    await flood(scene, 5000)
    assert (await scene.ask()).status == 200

    async def are_counted():
        return (await scene.status())["log_lines_dropped"] >= 5000
    await until(are_counted, "5000 lines that nobody takes are counted")


@case("S20 standard output and standard error closed from the start: no line gets into a reply")
async def _(bench):
    for closed in ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"]:
        scene = await bench.scene(Model(), ports=free_ports(2), under=["sh", "-c", f'exec "$0" "$@" {closed}'])
        scene.has_log = False
        # Descriptors that are free are taken by what is opened next.
        for reply in await asyncio.gather(*scene.begin(*["x"] * 50)):
            assert reply.end == "done" and reply.text == "x-0 x-1 x-2 ", reply.body


if __name__ == "__main__":
    sys.exit(run_cases(__doc__))
