#!/usr/bin/env python3
"""How fast the gateway acts when something goes: figures for docs/reliability.md.

    Tests/Life/latency.py --gateway .build/release/webllm-gateway [--rounds 200]

- a client leaves -> the upstream's connection is closed, in each phase
- an upstream dies while it answers nothing -> the first byte from the next
- 500 slow heads -> what other clients feel
- an upstream fails and is healed at once -> its breaker opens; its first request comes
"""
import argparse
import asyncio
import json
import pathlib
import statistics
import sys
import tempfile
import time

from life import EACH, Gateway, free_ports, infer_request, read_reply, wait_for, write_config
from scene import Model, reset


def milliseconds(times):
    times = sorted(times)
    return f"p50 {statistics.median(times) * 1000:.2f} ms, p99 {times[int(len(times) * 0.99)] * 1000:.2f} ms"


class Upstream:
    """Answers as its phase says, and notes when the gateway closes the connection of a generation."""

    kind = "ollama"

    def __init__(self, port):
        self.port, self.phase = port, "whole"
        self.asked, self.closed = asyncio.Queue(), asyncio.Queue()

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)

    async def serve(self, reader, writer):
        generating = False
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"GET"):
                    body = b'{"version":"1","models":[{"name":"m:latest"}]}'
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                    continue
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                generating = True
                if self.phase == "broken":
                    writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}")
                    continue
                if self.phase == "dies":
                    self.asked.put_nowait(writer)
                    await reader.read()
                    return
                if self.phase != "waiting":
                    line = b'{"model":"m","message":{"role":"assistant","content":"a"},"done":false}\n'
                    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(line), line))
                if self.phase == "whole":
                    line = b'{"model":"m","message":{"role":"assistant","content":""},"done":true}\n'
                    writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(line), line))
                    generating = False
                    continue
                self.asked.put_nowait(writer)
                await reader.read()
                return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            if generating:
                self.closed.put_nowait(time.monotonic())
            writer.close()


async def leaving(port, upstream, phase, stream, rounds):
    upstream.phase = phase
    times = []
    for _ in range(rounds):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(infer_request("x", stream))
        await upstream.asked.get()
        if phase == "streaming" and stream:
            await reader.readuntil(b'{"text":"a"}')
        left = time.monotonic()
        writer.transport.abort()
        times.append(await upstream.closed.get() - left)
    return times


async def upstream_state(admin, index, field):
    """One figure of an upstream, over the admin listener."""
    reader, writer = admin
    writer.write(b"GET /admin/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
    _, _, body = await read_reply(reader)
    return json.loads(body)["upstreams"][index][field]


async def leaving_before_the_request(port, admin_port, field, rounds):
    """Where the upstream sees nothing of the request: until the gateway's own count says that it is gone. The question
    itself takes a part of the time."""
    admin = await asyncio.open_connection("127.0.0.1", admin_port)
    base = await upstream_state(admin, 0, field)
    times = []
    for _ in range(rounds):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(infer_request("x", True))
        while await upstream_state(admin, 0, field) == base:
            pass
        left = time.monotonic()
        writer.transport.abort()
        while await upstream_state(admin, 0, field) != base:
            pass
        times.append(time.monotonic() - left)
    admin[1].close()
    return times


async def dying(port, first, second, rounds):
    first.phase, second.phase = "dies", "whole"
    times = []
    for _ in range(rounds):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(infer_request("x", True))
        victim = await first.asked.get()
        died = time.monotonic()
        reset(victim)
        await reader.readuntil(b'{"text":"a"}')
        times.append(time.monotonic() - died)
        await first.closed.get()
        writer.close()
    return times


async def asking(port, rounds):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    times = []
    for _ in range(rounds):
        started = time.monotonic()
        writer.write(infer_request("x"))
        await read_reply(reader)
        times.append(time.monotonic() - started)
    writer.close()
    return times


async def slow_heads(port, count, seconds):
    """Each sends a byte of its head now and then."""
    async def one():
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            for byte in b"GET /webllm/api/health HTTP/1.1\r\n" * 3:
                writer.write(bytes([byte]))
                await asyncio.sleep(seconds / 20)
        except OSError:
            pass
    return [asyncio.create_task(one()) for _ in range(count)]


async def before_the_request(arguments, folder, upstream, slots, field):
    """A gateway of its own, whose one upstream is held or cannot be connected to."""
    port, admin = free_ports(2)
    log, config = f"{folder}/log-{field}", f"{folder}/{field}.conf"
    pathlib.Path(config).write_text(
        f'[server]\nlisten = ["127.0.0.1:{port}"]\n[admin]\nlisten = ["127.0.0.1:{admin}"]\n'
        f'[history]\npath = "{folder}/{field}.sqlite"\n[[upstream]]\nname = "u"\n'
        f'kind = "ollama"\nurl = "http://127.0.0.1:{upstream.port}"\nmodel = "m"\nmax_in_flight = {slots}\n'
        'timeouts = { connect = "60s" }\nqueue_timeout = "60s"\nhealth = { interval = "1h" }\n')
    gateway = Gateway(arguments.gateway, config, log)
    try:
        while '"listening"' not in pathlib.Path(log).read_text():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        if field == "queued":
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(infer_request("x", True))
            await upstream.asked.get()
        times = await leaving_before_the_request(port, admin, field, arguments.rounds)
        if field == "queued":
            writer.close()
            await upstream.closed.get()
        return times
    finally:
        await asyncio.to_thread(gateway.end)


async def recovering(arguments, folder, first, second):
    """With the defaults of gateway.conf: requests until the breaker opens, and seconds until the healed one is asked."""
    log, config = f"{folder}/recovery.log", f"{folder}/recovery.conf"
    port, = free_ports(1)
    write_config(config, port, 0, [first, second], each="")
    first.phase, second.phase = "broken", "whole"
    gateway = Gateway(arguments.gateway, config, log)
    try:
        while '"listening"' not in pathlib.Path(log).read_text():
            await asyncio.sleep(0.01)
        asked = 0
        while '"breaker opened"' not in pathlib.Path(log).read_text():
            await asking(port, 1)
            asked += 1
            assert asked < 100, "the breaker does not open"
            await asyncio.sleep(0.05)  # for the log to be written
        opened, first.phase = time.monotonic(), "whole"
        while '"breaker closed"' not in pathlib.Path(log).read_text():
            await asking(port, 1)
            assert time.monotonic() - opened < 60, "the healed upstream is not asked"
            await asyncio.sleep(0.05)
        return asked, time.monotonic() - opened
    finally:
        await asyncio.to_thread(gateway.end)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log, config = f"{folder}/log", f"{folder}/gateway.conf"
        port, one, two = free_ports(3)
        first, second = Upstream(one), Upstream(two)
        await first.start()
        await second.start()
        # The breaker would leave the dying one alone.
        write_config(config, port, 0, [first, second], "[routing]\nretry_minimum = 10000", each=EACH.replace(
            'open = "1s"', 'failures = 1000, min_requests = 100000, open = "1s"', 1))
        gateway = Gateway(arguments.gateway, config, log)
        try:
            wait = lambda: '"listening"' in pathlib.Path(log).read_text()
            while not wait():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            for phase, stream in [("waiting", True), ("streaming", True), ("streaming", False)]:
                times = await leaving(port, first, phase, stream, arguments.rounds)
                name = f"{phase}, {'a stream' if stream else 'a plain reply'}"
                print(f"client leaves while {name}: upstream closed after {milliseconds(times)}")
            name = "client leaves while"
            first.phase = "waiting"
            times = await before_the_request(arguments, folder, first, 1, "queued")
            print(f"{name} queued: gone from the queue after {milliseconds(times)}")
            silent = Model()
            silent.fall_silent()
            times = await before_the_request(arguments, folder, silent, 4, "in_flight")
            silent.close()
            print(f"{name} connecting: the attempt is over after {milliseconds(times)}")
            times = await dying(port, first, second, arguments.rounds)
            print(f"upstream dies before a token: first byte of the next after {milliseconds(times)}")
            first.phase = "whole"
            before = await asking(port, 500)
            tasks = await slow_heads(port, 500, 5)
            await asyncio.sleep(0.5)
            after = await asking(port, 500)
            for task in tasks:
                task.cancel()
            print(f"others, without slow heads: {milliseconds(before)}")
            print(f"others, beside 500 slow heads: {milliseconds(after)}")
            asked, seconds = await recovering(arguments, folder, first, second)
            print(f"breaker: open after {asked} failures, and the healed upstream has its first request after {seconds:.1f} s")
        finally:
            gateway.end()
            first.server.close()
            second.server.close()
    return 0


sys.exit(asyncio.run(main()))
