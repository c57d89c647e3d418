"""A fresh server process for each run: what an earlier run left in caches, heaps and queues is not measured.

    with Server(["build/m2_file_server", "--root", data, "--port", "0"], cpu=0) as server:
        ...                            # server.port (server.path with --unix), server.pid
        counters = server.stop()       # the last line of its stdout

The whole process is pinned (taskset), so the threads of a pool share the one CPU that a single loop has.
"""

import json
import os
import pathlib
import re
import select
import signal
import subprocess
import tempfile
import time

START_SECONDS = 10
STOP_SECONDS = 10  # unfinished connections get 5 from the server itself


class ServerFailed(Exception):
    """It did not start, did not live, or did not end as it should; the message is one sentence."""

    def __init__(self, sentence, status=None):
        super().__init__(sentence)
        self.status = status  # how it ended before it listened


def pinned(command, cpu):
    return command if cpu is None else ["taskset", "-c", str(cpu), *command]


def last_words(text, limit=300):
    """The end of what a program said on stderr, on one line."""
    words = " ".join(text.split())
    return words if len(words) <= limit else "…" + words[-limit:]


class Server:
    def __init__(self, command, cpu=None):
        self.command = pinned([str(word) for word in command], cpu)
        self.name = pathlib.Path(str(command[0])).name
        self.port = None
        self.path = None
        self._process = None
        self._stderr = None

    @property
    def pid(self):
        return self._process.pid

    def __enter__(self):
        # A file and not a pipe for stderr: a server that says much must not wait for somebody to read it.
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        try:
            # A session of its own: Ctrl-C is for the orchestration, which then ends the server itself.
            self._process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                             stderr=self._stderr, start_new_session=True)
        except OSError as error:
            self._stderr.close()
            raise ServerFailed(f"{error.filename}: {error.strerror}") from None
        try:
            self.port, self.path = self._where_it_listens()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()

    def said(self):
        """Its stderr so far."""
        self._stderr.seek(0)
        return last_words(self._stderr.read())

    def heard_since(self, offset):
        """Its stderr from `offset` on, and the offset for the next time. pread, because server and file share a place:
        a seek here would move the server's next words."""
        text = os.pread(self._stderr.fileno(), 1 << 24, offset)
        return text.decode(errors="replace"), offset + len(text)

    def is_alive(self):
        return self._process.poll() is None

    def _where_it_listens(self):
        line = b""
        deadline = time.monotonic() + START_SECONDS
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise ServerFailed(f"{self.name} does not listen after {START_SECONDS} s: {self.said()}")
            part = os.read(self._process.stdout.fileno(), 4096)
            if not part:
                self._process.wait()
                status = self._process.returncode
                raise ServerFailed(f"{self.name} ended before it listened, {how_it_ended(status)}: {self.said()}",
                                   status)
            line += part
        if found := re.fullmatch(rb"listening unix:(.+)\n", line):
            return None, os.fsdecode(found[1])
        if found := re.fullmatch(rb"listening \S*:(\d+)\n", line):
            return int(found[1]), None
        raise ServerFailed(f"{self.name} began with {line!r} and not with `listening ADDRESS:PORT`")

    def stop(self):
        """SIGTERM, then its counters. ServerFailed for a leak, a hang or any other end than exit code 0."""
        if self.is_alive():
            self._process.send_signal(signal.SIGTERM)
        try:
            output, _ = self._process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"{self.name} did not end {STOP_SECONDS} s after SIGTERM") from None
        if self._process.returncode != 0:
            raise ServerFailed(f"{self.name} ended with {how_it_ended(self._process.returncode)}: {self.said()}")
        try:
            return json.loads(output.decode().strip().splitlines()[-1])
        except (IndexError, ValueError):
            raise ServerFailed(f"{self.name} did not end with its counters") from None


def how_it_ended(status):
    return f"signal {-status}" if status < 0 else f"exit code {status}"


def glance(pid):
    """What /proc says about a living server: its resident memory, and the CPUs that its threads may use."""
    memory, cpus = None, set()
    try:
        for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
            lines = (thread / "status").read_text().splitlines()
            fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            if thread.name == str(pid):
                memory = int(fields.get("VmRSS", "0").split()[0]) * 1024
            cpus.add(fields["Cpus_allowed_list"].strip())
    except (OSError, KeyError, ValueError):
        pass  # a thread, or all of it, has just ended
    return {"rss": memory, "cpus": sorted(cpus)}
