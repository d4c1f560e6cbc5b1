#!/usr/bin/env python3
"""Faults at random for a bounded time: upstreams killed, frozen and restarted, configurations reloaded, clients leaving.

    Tests/Life/soak.py --gateway .build/release/webllm-gateway [--seconds 60] [--clients 200] [--seed N]

Every request ends: with a whole reply, an error in the stream's own form, or because its client left. Descriptors and
memory come back to where they were.
"""
import argparse
import asyncio
import collections
import json
import pathlib
import random
import signal
import sys
import tempfile
import time

from life import Cut, Gateway, Upstream, free_ports, infer_request, read_reply, wait_for, write_config

counts = collections.Counter()
problems = []
running = True


async def client(port, dice):
    while running:
        streams = dice.random() < 0.5
        leaves = dice.random() < 0.2
        counts["asked"] += 1
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            problems.append(f"no connection: {error}")
            continue
        try:
            writer.write(infer_request("x", streams))
            if leaves:
                await asyncio.sleep(dice.random() * 0.1)
                counts["left"] += 1
                continue
            status, head, body = await asyncio.wait_for(read_reply(reader), 30)
            counts["answered"] += 1
            counts[f"status {status}"] += 1
            if "text/event-stream" in head:
                last = body.strip().rsplit("event: ", 1)[-1]
                if not last.startswith(("done", "error")):
                    problems.append(f"a stream without an end: {body[-200:]!r}")
                counts["stream " + last.split("\n")[0]] += 1
            elif status == 200 and "text" not in json.loads(body):
                problems.append(f"a reply without text: {body[:200]!r}")
        except Cut as error:
            problems.append(f"cut: {error}")
        except asyncio.TimeoutError:
            problems.append("no end within 30 s")
        except OSError as error:
            problems.append(f"{type(error).__name__}: {error}")
        finally:
            writer.close()


async def trouble(upstreams, gateway, config, port, dice, end):
    """One upstream is always left alone for a while, so that most requests are answered."""
    last_reload = time.monotonic()
    while time.monotonic() < end:
        upstream = dice.choice(upstreams)
        kind = dice.choice(["kill", "freeze", "restart"])
        counts[kind] += 1
        if kind == "kill":
            await asyncio.to_thread(upstream.stop)
            await asyncio.sleep(dice.random() * 2)
            await asyncio.to_thread(upstream.start)
        elif kind == "freeze":
            upstream.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(dice.random() * 3)
            upstream.process.send_signal(signal.SIGCONT)
        else:
            await asyncio.to_thread(upstream.stop, signal.SIGTERM)
            await asyncio.to_thread(upstream.start)
        if time.monotonic() - last_reload > 10:
            last_reload = time.monotonic()
            counts["reload"] += 1
            write_config(config, port, 0, dice.sample(upstreams, len(upstreams)))
            gateway.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(dice.random())


async def main():
    global running
    parser = argparse.ArgumentParser()
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--memory", type=int, default=24, help="MiB that memory may grow by after the warm-up")
    arguments = parser.parse_args()
    print(f"soak: seed {arguments.seed}", flush=True)
    dice = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        log, config = f"{folder}/log", f"{folder}/gateway.conf"
        port, *upstream_ports = free_ports(4)
        upstreams = [Upstream(one, 5, 0.01) for one in upstream_ports]
        write_config(config, port, 0, upstreams)
        gateway = Gateway(arguments.gateway, config, log)
        try:
            wait_for(lambda: '"listening"' in pathlib.Path(log).read_text(), 20, "the gateway")
            end = time.monotonic() + arguments.seconds
            clients = [
                asyncio.create_task(client(port, random.Random(dice.random()))) for _ in range(arguments.clients)]
            faults = asyncio.create_task(trouble(upstreams, gateway, config, port, dice, end))
            # The first quarter fills pools, buffers and the history.
            await asyncio.sleep(arguments.seconds / 4)
            warm = gateway.memory_kib()
            await faults
            running = False
            await asyncio.gather(*clients)
            # What the clients left behind is gone within two seconds.
            # Connections to upstreams stay for reuse, no more than requests ran at once.
            most = arguments.clients + 100
            idle = time.monotonic() + 10
            while gateway.descriptors() > most and time.monotonic() < idle:
                await asyncio.sleep(0.1)
            descriptors, memory = gateway.descriptors(), gateway.memory_kib()
            if descriptors > most:
                problems.append(f"{descriptors} descriptors are left")
            if memory > warm + arguments.memory * 1024:
                problems.append(f"memory grew from {warm} to {memory} KiB")
            if counts["asked"] != counts["answered"] + counts["left"] + len(problems):
                problems.append("asked is not answered + left")
        finally:
            running = False
            code = gateway.process.poll()
            if code is not None:
                problems.append(f"the gateway ended with {code}")
                print(pathlib.Path(log).read_text()[-3000:])
            elif gateway.end() != 0:
                problems.append("the gateway did not end cleanly")
            for upstream in upstreams:
                upstream.stop()
            text = pathlib.Path(log).read_text()
            if "Sanitizer" in text:
                problems.append("a sanitizer's report")
                print(text[text.index("Sanitizer") - 200:][:6000])
    print(f"soak: {arguments.seconds} s, {dict(counts)}, memory {warm} -> {memory} KiB, {descriptors} descriptors")
    for problem, times in collections.Counter(problems).most_common(10):
        print(f"  {times} x {problem}")
    return 1 if problems else 0


sys.exit(asyncio.run(main()))
