"""A command on a terminal of its own."""
import fcntl
import os
import pty
import select
import subprocess
import termios
import time


class Terminal:
    def __init__(self, binary, *arguments, env):
        self._master, slave = pty.openpty()
        self.output = ""
        # A session of its own, whose terminal this is: the interrupt character reaches it.
        self.process = subprocess.Popen(
            [binary, *map(str, arguments)], stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)

    def read_until(self, text, seconds=10):
        """Reads on until the text has come."""
        end = time.monotonic() + seconds
        while text not in self.output:
            if not select.select([self._master], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError(f"{text!r} did not come: {self.output!r}")
            if not self._read():
                raise AssertionError(f"{text!r} did not come before the end: {self.output!r}")

    def _read(self):
        try:
            bytes = os.read(self._master, 65536)
        except OSError:  # how Linux tells of the other side's end
            bytes = b""
        self.output += bytes.decode(errors="replace")
        return bytes

    def press(self, characters):
        os.write(self._master, characters.encode())

    def end(self, seconds=10):
        """Waits for the end and gives the exit code."""
        end = time.monotonic() + seconds
        while select.select([self._master], [], [], max(0, end - time.monotonic()))[0] and self._read():
            pass
        code = self.process.wait(timeout=seconds)
        os.close(self._master)
        return code
