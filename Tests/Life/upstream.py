"""A small Ollama look-alike in a process of its own, to be killed, frozen and restarted.

    upstream.py PORT [PIECES] [SECONDS_BETWEEN]
"""
import asyncio
import json
import sys


async def serve(reader, writer):
    pieces = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n")
                           if line.startswith(b"content-length:")), 0)
            body = await reader.readexactly(length)
            if method == "GET":
                text = json.dumps({"version": "1", "models": [{"name": "m:latest"}]}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
                await writer.drain()
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
            messages = json.loads(body)["messages"]
            prompt, last = (messages[-1]["content"], pieces) if messages else ("", 0)  # without: only loads the model
            for index in range(last + 1):
                done = index == last
                line = json.dumps({"model": "m", "done": done, "message": {
                    "role": "assistant", "content": "" if done else f"{prompt}-{index} "}}).encode() + b"\n"
                writer.write(b"%x\r\n%s\r\n" % (len(line), line))
                await writer.drain()
                if pause and not done:
                    await asyncio.sleep(pause)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), reuse_address=True, backlog=1024)
    print("listening", flush=True)
    await server.serve_forever()


asyncio.run(main())
