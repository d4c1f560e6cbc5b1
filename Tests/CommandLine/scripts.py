"""Tests of the scripts that people start with: the real ones, where what they build or fetch has a stand-in."""
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest
import urllib.request

from life import free_ports

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"


def write_command(file, text=""):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("#!/bin/sh\n" + text)
    file.chmod(0o755)


class Scripts(unittest.TestCase):
    binary = None  # the gateway

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="webllm-scripts-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def demo(self, port, **environment):
        scripts = self.folder / "scripts"
        for name in ["bootstrap", "real_model_setup", "build_release"]:
            write_command(scripts / name)
        write_command(self.folder / ".llm/bin/python", "echo listening\nexec sleep 60\n")
        (self.folder / ".build/release").mkdir(parents=True)
        (self.folder / ".build/release/webllm-gateway").symlink_to(self.binary)
        shutil.copy(SCRIPTS / "demo", scripts)
        # A session of its own: the interrupt reaches all of it, as a terminal's does.
        process = subprocess.Popen(
            [scripts / "demo", "--port", str(port)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | environment)
        self.addCleanup(process.communicate, timeout=20)
        self.addCleanup(self.interrupt, process)
        return process

    @staticmethod
    def interrupt(process):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)

    def test_the_demo_is_its_own_whatever_else_is_there(self):
        port, other = free_ports(2)
        with socket.socket() as taken:
            # The next one, which is the first choice for operators.
            taken.bind(("127.0.0.1", port + 1))
            taken.listen()
            process = self.demo(
                port, WEBLLM_GATEWAY_LISTEN=f"127.0.0.1:{other}", OLLAMA_BASE_URL="not a url", OLLAMA_MODEL="other")
            text = ""
            while "Ctrl-C" not in text:
                line = process.stdout.readline()
                self.assertTrue(line, text)
                text += line
                if line.startswith("Open "):  # it listens by then
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10).close()
            dashboard = re.search(r"http://\S+/dashboard", text)[0]
            self.assertNotIn(f":{port + 1}/", dashboard)
            urllib.request.urlopen(dashboard, timeout=10).close()

    def test_a_demo_that_cannot_listen_shows_no_address(self):
        port = free_ports(1)[0]
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", port))
            taken.listen()
            process = self.demo(port)
            out, errors = process.communicate(timeout=30)
        self.assertNotEqual(process.returncode, 0)
        self.assertNotIn("Open ", out)
        self.assertIn(f"cannot listen on 127.0.0.1:{port}", errors)

    def bootstrap(self):
        shell = shutil.which("bash")
        return subprocess.run(
            [shell, SCRIPTS / "bootstrap"], capture_output=True, text=True, env={"PATH": str(self.folder)}, timeout=20)

    def test_without_dpkg_the_packages_are_not_checked(self):
        for name in ["swift", "pkg-config", "g++", "python3"]:
            write_command(self.folder / name)
        done = self.bootstrap()
        self.assertEqual(done.returncode, 1)
        self.assertIn("not on the PATH: curl.", done.stderr)
        write_command(self.folder / "curl")
        done = self.bootstrap()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("are not checked: libcurl4-openssl-dev ", done.stderr)
