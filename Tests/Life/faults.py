#!/usr/bin/env python3
"""Upstreams and clients that misbehave, seen through the whole gateway.

    Tests/Life/faults.py --gateway .build/debug/webllm-gateway [--only WORD] [--quick]
"""
import asyncio
import collections
import json
import re
import socket
import struct
import sys
import tempfile
import time

from life import EACH, Cut, infer_request, read_reply
from scene import LOOPS, PATIENT, Model, TLSModel, case, reset, run_cases, until, whole

# Neither breaker nor probes take an upstream away, so that each request meets it.
UNSEEN = PATIENT.replace('open = "1s"', 'failures = 1000, min_requests = 100000, open = "1s"').replace(
    'interval = "500ms"', 'interval = "1h"')
RETRIES = "[routing]\nretry_minimum = 10000"
NO_EXCUSE = '[webllm]\nfallback_message = ""'


# Upstreams

@case("U02 a handshake that is never completed: the connect timer, then the next upstream")
async def _(bench):
    each = UNSEEN.replace('connect = "1s"', 'connect = "500ms"')
    scene = await bench.scene(Model(), Model(), each=each, server=RETRIES)
    scene.models[0].fall_silent()
    started = time.monotonic()
    reply = await scene.ask()
    took = time.monotonic() - started
    assert reply.status == 200 and "x-gateway-upstream: u1\r\nx-gateway-attempts: 2" in reply.head, reply.head
    assert 0.5 <= took < 0.5 + bench.patience, f"the timer of 0.5 s took {took:.2f} s"
    await until(lambda: scene.said("attempt failed"), "a line for the attempt")
    assert scene.said("attempt failed")[0]["failure"] == "connect_timer", scene.said("attempt failed")


@case("U02 a client that leaves during the handshake frees its slot at once")
async def _(bench):
    scene = await bench.scene(Model(), each=UNSEEN.replace('connect = "1s"', 'connect = "1m"'))
    scene.models[0].fall_silent()
    _, writer = await scene.connect()
    scene.asked += 1
    writer.write(infer_request("x"))

    async def is_taken():
        return (await scene.upstream())["in_flight"] == 1

    async def is_free():
        status = await scene.status()
        return status["upstreams"][0]["in_flight"] == 0 and status["transfers"] == 0
    await until(is_taken, "its slot is taken")
    reset(writer)
    await until(is_free, "its slot is free", 0.5 * bench.patience)


@case("an https upstream that ends idle connections properly: the next request has a new one")
async def _(bench):
    with tempfile.TemporaryDirectory() as folder:
        model = TLSModel(folder)
        scene = await bench.scene(model, each=UNSEEN, under=["env", f"SSL_CERT_FILE={model.certificate}"])
        for _ in range(10):
            await model.end_connections()
            reply = await scene.ask()
            assert "x-gateway-upstream: u0" in reply.head, reply.head
        assert not scene.said("attempt failed"), scene.said("attempt failed")


@case("U05 an upstream that resets: before the head, before a token, in the middle")
async def _(bench):
    seen = asyncio.Event()

    async def resets(generation):
        if generation.prompt == "base":
            return await whole(generation)
        if generation.prompt != "at once":
            await generation.begin()
        if generation.prompt == "in the middle":
            await generation.piece("one ")
            await seen.wait()
        reset(generation.writer)

    scene = await bench.scene(Model(resets), Model(), each=UNSEEN, server=RETRIES)
    for _ in range(5 if bench.quick else 20):
        for prompt in ["at once", "after the head"]:
            for stream in [True, False]:
                reply = await scene.ask(prompt, stream)
                assert reply.end in ("done", 200) and f"{prompt}-2" in reply.body, reply.body
                assert "x-gateway-attempts: 2" in reply.head, reply.head
        seen.clear()
        reader, writer = await scene.connect()
        scene.asked += 1
        writer.write(infer_request("in the middle", stream=True))
        head = await reader.readuntil(b"\r\n\r\n")
        first = await reader.readuntil(b'{"text":"one "}\n\n\r\n')
        seen.set()
        rest = await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.close()
        assert b"event: error" in rest and b"event: done" not in rest, head + first + rest


@case("U12 tokens without end: cut off at 16 MiB")
async def _(bench):
    async def endless(generation):
        if generation.prompt == "base":
            return await whole(generation)
        while True:
            await generation.piece("x" * 32768)

    scene = await bench.scene(Model(endless), server=NO_EXCUSE)
    reply = await scene.ask(stream=True)
    assert reply.end == "error" and 15 << 20 < len(reply.text) <= 16 << 20, f"{reply.end}, {len(reply.text)} bytes"
    reply = await scene.ask()
    assert reply.status == 502, reply.status
    assert (await scene.status())["limits"]["reply"] == 2


@case("U49 a body of 1 GiB from a /query/ backend: 502 at 8 MiB")
async def _(bench):
    sent = 0

    async def huge(generation):
        nonlocal sent
        body = json.dumps({"response": "base"}).encode()
        length = len(body) if generation.prompt == "base" else 1 << 30
        generation.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
        if generation.prompt == "base":
            generation.writer.write(body)
        else:
            generation.writer.write(b'{"response":"')
            while sent < length:
                generation.writer.write(b"x" * 65536)
                sent += 65536
                await generation.writer.drain()
        await generation.writer.drain()

    scene = await bench.scene(Model(huge, kind="query"), server=NO_EXCUSE)
    reply = await scene.ask()
    assert reply.status == 502, f"{reply.status} {reply.body[:200]}"
    # What the sockets hold comes on top.
    assert 8 << 20 <= sent < 24 << 20, f"{sent >> 20} MiB were taken"


@case("U53 an upstream that flaps: the other one answers, and its state changes with it at most")
async def _(bench):
    scene = await bench.scene(Model(), Model(), each=EACH, server=RETRIES)
    flapping = scene.models[0]
    cycles = 2 if bench.quick else 5
    replies, running = [], True

    async def client():
        while running:
            replies.append(await scene.ask())
            await asyncio.sleep(0.02)

    clients = [asyncio.create_task(client()) for _ in range(4)]
    served = []
    for _ in range(cycles):
        flapping.stop()
        await asyncio.sleep(2)
        await flapping.start()
        before = flapping.answered
        await asyncio.sleep(2)
        served.append(flapping.answered - before)
    running = False
    await asyncio.gather(*clients)
    wrong = [reply.body for reply in replies if reply.status != 200 or "x-0 x-1 x-2" not in reply.body]
    assert not wrong, f"{len(wrong)} of {len(replies)} requests: {wrong[0]}"
    changes = {name: len(scene.said(name))
               for name in ["upstream is down", "upstream is up", "breaker opened", "breaker closed"]}
    # One each at the start is that of the two upstreams.
    assert changes["upstream is down"] <= cycles and changes["upstream is up"] <= 2 + cycles, changes
    assert changes["breaker opened"] <= 3 * cycles and changes["breaker closed"] <= cycles, changes
    return f"{len(replies)} answers, {served} of the flapping one, {changes}"


class HangingProbes(Model):
    """Answers its first probe, and no later one."""

    def __init__(self):
        super().__init__()
        self.hangs = False
        self.probes = self.outstanding = self.most_outstanding = 0

    async def probe(self, reader, writer):
        if not self.hangs:
            return await super().probe(reader, writer)
        await asyncio.sleep(0.02)
        if reader.at_eof():
            return  # this process stood still, and the gateway has given it up meanwhile
        self.probes += 1
        self.outstanding += 1
        self.most_outstanding = max(self.most_outstanding, self.outstanding)
        await reader.read()  # until the gateway gives up
        self.outstanding -= 1


@case("U55 probes that hang: one at a time, and none is left over")
async def _(bench):
    model = HangingProbes()
    each = PATIENT.replace('interval = "500ms", timeout = "500ms"', 'interval = "50ms", timeout = "200ms"')
    scene = await bench.scene(model, each=each)
    model.hangs = True
    await until(lambda: model.probes >= 10, "ten probes")
    assert model.most_outstanding == 1, f"{model.most_outstanding} probes at once"
    await until(lambda: scene.said("upstream is down"), "a line that it is down")
    model.hangs = False
    await until(lambda: len(scene.said("upstream is up")) == 2, "it is up again")
    assert scene.connections_to_models() <= 3, f"{scene.connections_to_models()} connections"


# Clients

async def clients_that_do_not_read(bench, count, most, piece="x" * 16384):
    """Streams without end to clients that take nothing, until nothing moves.
    - `most`: MiB that the gateway's memory may grow by; a sanitizer's memory is its own."""
    async def endless(generation):
        nonlocal sent
        if generation.prompt != "endless":
            return await whole(generation)
        while True:
            await generation.piece(piece)
            sent += len(piece)

    sent = 0
    scene = await bench.scene(Model(endless))
    for _ in range(2 * LOOPS):  # a large reply on each loop, which must not matter later
        await scene.get("/webllm/chat.js")
    model, memory = scene.models[0], scene.gateway.memory_kib()
    clients = []
    for _ in range(count):
        _, writer = await scene.connect()
        writer.transport.pause_reading()
        writer.write(infer_request("endless", stream=True))
        scene.asked += 1
        clients.append(writer)
    await until(lambda: len(model.running) == count, "all run")
    stood, still = -1, time.monotonic()
    while time.monotonic() - still < 1:
        if sent != stood:
            stood, still = sent, time.monotonic()
        assert sent < count * (32 << 20), "the upstream is not held back"
        await asyncio.sleep(0.05)
    grown = (scene.gateway.memory_kib() - memory) / 1024
    told = f"{sent / count / (1 << 20):.1f} MiB a client were sent, memory grew by {grown:.0f} MiB"
    assert bench.quick or grown < most, told
    return scene, clients, told


async def check_gone(bench, scene, clients):
    for writer in clients:
        reset(writer)
    await until(lambda: not scene.models[0].running, "the upstream is free", 2 * bench.patience)


@case("C06 a client that does not read and then resets: the upstream waits, and is free when it is gone")
async def _(bench):
    scene, clients, told = await clients_that_do_not_read(bench, 1, 16)
    await check_gone(bench, scene, clients)
    return told


@case("U60 clients that do not read a stream of single words")
async def _(bench):
    scene, clients, told = await clients_that_do_not_read(bench, 3, 10, piece="word ")
    await check_gone(bench, scene, clients)
    return told


@case("U60 50 clients that do not read: memory is bounded, and others are served")
async def _(bench):
    scene, clients, told = await clients_that_do_not_read(bench, 50, 64)
    for stream in [True, False]:
        started = time.monotonic()
        assert (await scene.ask("x", stream)).end in ("done", 200)
        assert time.monotonic() - started < bench.patience, "another client waits"
    await check_gone(bench, scene, clients)
    return told


@case("C07 a client that closes its sending half counts as one that left")
async def _(bench):
    go = asyncio.Event()

    async def waits(generation):
        if generation.prompt == "held":
            await go.wait()
        await whole(generation)

    scene = await bench.scene(Model(waits))
    for stream in [True, False]:
        reader, writer = await scene.connect()
        scene.asked += 1
        writer.write(infer_request("held", stream))
        await until(lambda: len(scene.models[0].running) == 1, "it runs")
        writer.write_eof()
        await until(lambda: not scene.models[0].running, "its generation is stopped", bench.patience)
        assert await asyncio.wait_for(reader.read(), 2 * bench.patience) == b"", "an answer for a client that left"
        writer.close()


@case("C09 a chunk extension, and chunks, that come byte by byte: 408")
async def _(bench):
    for start, drip, seconds, server in [
            (b"5;", b"a", 1, 'body_idle_timeout = "1s"'),
            (b"", b"1\r\nx\r\n", 3, 'body_idle_timeout = "30s"\nbody_timeout = "3s"')]:
        scene = await bench.scene(Model(), server=server)
        reader, writer = await scene.connect()
        scene.asked += 1
        writer.write(b"POST /webllm/api/infer HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
                     b"Transfer-Encoding: chunked\r\n\r\n" + start)
        started = time.monotonic()
        answer = asyncio.create_task(read_reply(reader))
        while not answer.done():
            writer.write(drip)
            await asyncio.wait([answer], timeout=0.1)
        reply = scene.note(answer.result())
        took = time.monotonic() - started
        assert reply.status == 408 and "connection: close" in reply.head, reply.head
        assert seconds <= took < seconds + 1 + bench.patience, f"{drip}: after {took:.1f} s"
        writer.close()


@case("F108 line ends for ever in place of a request: closed when the time for a head is over")
async def _(bench):
    scene = await bench.scene(Model(), server='head_timeout = "1s"')
    reader, writer = await scene.connect()
    scene.asked += 1
    started = time.monotonic()
    answer = asyncio.create_task(read_reply(reader))
    while not answer.done():
        writer.write(b"\r\n")
        await asyncio.wait([answer], timeout=0.1)
    assert scene.note(answer.result()).status == 408
    assert time.monotonic() - started < 2 + bench.patience


@case("C16 a thousand connections a second that reset at once: others are served")
async def _(bench):
    scene = await bench.scene(Model())

    def storm():
        for _ in range(3000):
            with socket.create_connection(("127.0.0.1", scene.ports[0])) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            time.sleep(0.001)

    storming, longest, count = asyncio.create_task(asyncio.to_thread(storm)), 0, 0
    while not storming.done():
        started = time.monotonic()
        assert (await scene.ask()).status == 200
        longest, count = max(longest, time.monotonic() - started), count + 1
    await storming
    assert longest < bench.patience, f"a request took {longest:.1f} s"
    return f"{count} requests beside 3000 resets, the longest took {longest * 1000:.0f} ms"


@case("S15 200 bodies of 4 MiB at once: those beyond max_body_memory are told so")
async def _(bench):
    scene = await bench.scene(Model())
    memory = scene.gateway.memory_kib()
    # Whole up to their last piece, so that all are held.
    piece, pieces, rest, told = b" " * (64 << 10), 64, asyncio.Event(), []
    head = (b"POST /webllm/api/infer HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % (len(piece) * pieces))

    async def client():
        reader, writer = await scene.connect()
        scene.asked += 1
        answer = asyncio.create_task(read_reply(reader))
        try:
            writer.write(head)
            for number in range(pieces):
                if number == pieces - 1:
                    await asyncio.wait([answer, asyncio.create_task(rest.wait())], return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    break
                writer.write(piece)
                await writer.drain()
            told.append(scene.note(await answer).status)
        except (Cut, ConnectionError):
            told.append("cut")  # it went on to send for half a second after its answer
        finally:
            answer.cancel()
            writer.close()

    clients = [asyncio.create_task(client()) for _ in range(200)]
    most = (256 << 20) // (len(piece) * (pieces - 1))
    await until(lambda: len(told) >= 200 - most, "those beyond 256 MiB are answered", 60)
    grown = (scene.gateway.memory_kib() - memory) / 1024
    rest.set()
    await asyncio.gather(*clients)
    # Blanks are no JSON.
    taken, refused = told.count(400), told.count(503) + told.count("cut")
    assert 0 < taken <= most and taken + refused == 200, collections.Counter(told)
    assert (await scene.status())["limits"]["body_memory"] == refused
    assert bench.quick or grown < 2 * 256, f"memory grew by {grown:.0f} MiB"
    return f"{taken} were taken, memory grew by {grown:.0f} MiB"


@case("S27 a scrape every 10 ms under load: no counter goes back, and all requests are counted")
async def _(bench):
    scene = await bench.scene(Model())
    running, count = True, 0

    async def client(stream):
        nonlocal count
        while running:
            assert (await scene.ask("x", stream)).end in ("done", 200)
            count += 1

    name = 'webllm_gateway_requests_total{route="infer",outcome="ok",upstream="u0"}'
    base = await scene.sample(name)
    clients = [asyncio.create_task(client(number % 2 == 0)) for number in range(4)]
    started, last, scrapes = time.monotonic(), {}, 0
    while time.monotonic() - started < 3:
        text = (await scene.operator("GET", "/metrics")).body
        counters = set(re.findall(r"^# TYPE (\S+) counter$", text, re.M))
        now = {sample: float(value) for sample, value in (line.rsplit(" ", 1) for line in text.splitlines()
               if not line.startswith("#")) if sample.split("{")[0] in counters}
        back = {sample: (last[sample], value) for sample, value in now.items() if value < last.get(sample, 0)}
        assert counters and not back, f"went back: {back}"
        last, scrapes = now, scrapes + 1
        await asyncio.sleep(0.01)
    running = False
    await asyncio.gather(*clients)

    async def are_counted():
        return await scene.sample(name) - base == count
    await until(are_counted, f"{count} requests are counted", 2 * bench.patience)
    return f"{count} requests, {scrapes} scrapes"


@case("X36 an answer of 4 MiB is not in the list of requests")
async def _(bench):
    async def long(generation):
        await generation.piece("long" * (1 << 20) if generation.prompt == "long" else "short")
        await generation.end()

    scene = await bench.scene(Model(long))
    reply = await scene.ask("long")

    async def is_listed():
        listed = await scene.operator("GET", "/admin/requests")
        assert len(listed.body) < 64 << 10, f"the list has {len(listed.body)} bytes"
        return reply.json["request_id"] in listed.body
    await until(is_listed, "the request is listed")


if __name__ == "__main__":
    sys.exit(run_cases(__doc__))
