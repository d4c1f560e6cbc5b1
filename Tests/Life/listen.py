#!/usr/bin/env python3
"""Listens where a service manager says so and tells it so; keeps a Unix socket, and hands it over; takes the open files
that it may need.

    Tests/Life/listen.py --gateway .build/debug/webllm-gateway
"""
import argparse
import os
import pathlib
import resource
import select
import socket
import subprocess
import tempfile

from life import Gateway, wait_for


def write_config(path, listen):
    pathlib.Path(path).write_text(
        f'[server]\nlisten = ["{listen}"]\n[admin]\nlisten = []\n[history]\npath = ":memory:"\n'
        '[[upstream]]\nname = "u"\nkind = "ollama"\nurl = "http://127.0.0.1:9"\nmodel = "m"\n')


def status(connection):
    with connection:
        connection.settimeout(10)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
        answer = connection.recv(4096)
        return answer.split(b" ")[1] if answer else None


def unix_status(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return status(connection)


def service_manager(binary, folder):
    """LISTEN_FDS (sd_listen_fds(3)) and NOTIFY_SOCKET (sd_notify(3))."""
    config, log, notify = f"{folder}/service.conf", f"{folder}/service.log", f"{folder}/notify"
    write_config(config, "203.0.113.1:1")  # not to be used
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(notify)
        told.settimeout(20)
        script = f'LISTEN_FDS=1 LISTEN_PID=$$ NOTIFY_SOCKET={notify} exec "$@" 3<&{listener.fileno()}'
        gateway = Gateway(binary, config, log, under=["sh", "-c", script, "sh"], pass_fds=[listener.fileno()])
        try:
            assert told.recv(100) == b"READY=1"
            assert status(socket.create_connection(listener.getsockname())) == b"200"
        finally:
            code = gateway.end()
        assert told.recv(100) == b"STOPPING=1"
        assert code == 0, code


def unix_socket(binary, folder):
    config, log, path = f"{folder}/unix.conf", f"{folder}/unix.log", f"{folder}/gateway.sock"
    write_config(config, f"unix:{path}")

    def count():
        return pathlib.Path(log).read_text().count('"listening"')

    first = second = None
    try:
        first = Gateway(binary, config, log)
        wait_for(lambda: count() == 1, 20, "the first gateway")
        refused = subprocess.run([binary, "serve", "--config", config], capture_output=True, text=True, timeout=20)
        assert refused.returncode == 1, refused
        assert f"cannot listen on unix:{path}: the address is in use" in refused.stderr, refused.stderr
        assert unix_status(path) == b"200"
        second = Gateway(binary, config, log, "--take-over")
        wait_for(lambda: count() == 2, 20, "the second gateway")
        first.process.terminate()
        assert first.process.wait(timeout=40) == 0
        assert unix_status(path) == b"200", "the new one serves when the old one is gone"
        second.process.kill()
        second.process.wait()
        assert os.path.exists(path), "killed, it leaves its file"
        first = Gateway(binary, config, log)
        wait_for(lambda: count() == 3, 20, "the third gateway")
        assert unix_status(path) == b"200"
        assert first.end() == 0
        assert not os.path.exists(path)
    finally:
        for gateway in (first, second):
            if gateway and gateway.process.poll() is None:
                gateway.process.kill()
                gateway.process.wait()


def leaves_room_for_upstreams(path, room):
    """More clients than there are open files for: those beyond are closed at once, and the others can be served."""
    clients = {socket.socket(socket.AF_UNIX) for _ in range(room + 20)}
    refused = set()
    try:
        for client in clients:
            client.connect(path)

        def all_are_refused():
            refused.update(select.select(clients, [], [], 0)[0])
            return len(refused) >= 20
        wait_for(all_are_refused, 20, "those beyond are refused")
        served = clients - refused
        for client in served:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n")
        for client in served:
            client.settimeout(20)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 "), "one that was let in is not served"
        assert len(served) == room, f"{len(served)} were let in"
    finally:
        for client in clients:
            client.close()


def open_files(binary, folder):
    """Many systems let a process have 1024 open files until it asks for more."""
    config, log = f"{folder}/files.conf", f"{folder}/files.log"
    write_config(config, f"unix:{folder}/files.sock")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = 2 * 8192 + 1024
    for hard in (most, 2000):
        expected = min(hard, wanted)
        pathlib.Path(log).write_text("")
        gateway = Gateway(
            binary, config, log, under=["sh", "-c", f'ulimit -S -n 300; ulimit -H -n {hard}; exec "$@"', "sh"])
        try:
            wait_for(lambda: gateway.has_logged('"listening"', log), 20, "the gateway")
            limits = pathlib.Path(f"/proc/{gateway.process.pid}/limits").read_text()
            assert f"Max open files            {expected} " in limits, limits
            table = pathlib.Path(f"/proc/{gateway.process.pid}/status").read_text().split("FDSize:")[1].split()[0]
            assert int(table) >= expected, f"the kernel's table has {table} places"
            assert gateway.has_logged("too few open files", log) == (hard < wanted), pathlib.Path(log).read_text()
            if hard < wanted:
                leaves_room_for_upstreams(f"{folder}/files.sock", hard // 3)
            wait_for(lambda: unix_status(f"{folder}/files.sock") == b"200", 20, "a new client")
        finally:
            assert gateway.end() == 0


parser = argparse.ArgumentParser()
parser.add_argument("--gateway", required=True)
arguments = parser.parse_args()
with tempfile.TemporaryDirectory() as folder:
    service_manager(arguments.gateway, folder)
    unix_socket(arguments.gateway, folder)
    open_files(arguments.gateway, folder)
print("listen: sockets of a service manager, a Unix socket kept and handed over, open files")
