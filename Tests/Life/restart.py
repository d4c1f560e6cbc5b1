#!/usr/bin/env python3
"""Restarts the gateway under load: the new process takes the address over, the old one drains. No request may fail.

    Tests/Life/restart.py --gateway .build/debug/webllm-gateway [--restarts 20] [--connections 32]
"""
import argparse
import asyncio
import pathlib
import sys
import tempfile

from life import PATIENT, Cut, Gateway, Upstream, free_ports, infer_request, read_reply, wait_for, write_config

answered, failed = 0, []
running = True


async def client(port, number):
    """Asks again and again on one connection, and on a new one where the gateway says that it closes."""
    global answered
    writer = None
    count = 0
    while running:
        count += 1
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(infer_request(f"c{number}r{count}"))
            status, head, body = await read_reply(reader)
            if status != 200 or f"c{number}r{count}-0" not in body:
                failed.append(f"status {status}: {body[:100]}")
            answered += 1
            if "connection: close" in head:
                writer.close()
                writer = None
        except (Cut, OSError) as error:
            failed.append(f"{type(error).__name__}: {error}")
            writer = None


async def main():
    global running
    parser = argparse.ArgumentParser()
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--connections", type=int, default=32)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log, config = f"{folder}/log", f"{folder}/gateway.conf"
        port, upstream_port = free_ports(2)
        upstream = Upstream(upstream_port)
        # Each process needs its own admin port while both live; port 0 lets the system choose.
        write_config(config, port, 0, [upstream], each=PATIENT)
        gateway = Gateway(arguments.gateway, config, log)
        try:
            wait_for(lambda: pathlib.Path(log).read_text().count('"listening"') == 1, 10, "the first gateway")
            clients = [asyncio.create_task(client(port, number)) for number in range(arguments.connections)]
            for restart in range(arguments.restarts):
                newer = Gateway(arguments.gateway, config, log, "--take-over")
                while pathlib.Path(log).read_text().count('"listening"') < restart + 2:
                    await asyncio.sleep(0.01)
                code = await asyncio.to_thread(gateway.end)
                if code != 0:
                    failed.append(f"a drained gateway ended with {code}")
                gateway = newer
                await asyncio.sleep(0.1)
            running = False
            await asyncio.gather(*clients)
        finally:
            running = False
            gateway.end()
            upstream.stop()
            text = pathlib.Path(log).read_text()
    if failed and "Sanitizer" in text:
        print(text[text.index("Sanitizer") - 100:][:8000])
    print(f"restart: {arguments.restarts} restarts, {arguments.connections} connections, {answered} answers, "
          f"{len(failed)} failed")
    for failure in failed[:5]:
        print(f"  {failure}")
    return 1 if failed or answered == 0 else 0


sys.exit(asyncio.run(main()))
