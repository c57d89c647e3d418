"""Connections that are open and say nothing, and what they cost: memory of the server's own, and of the kernel.

The clients live in this process, one socket each and no thread. All of them speak at least once, so that nothing which
a server allocates with the first message is forgotten, and answer once more at the end: what was counted was alive.
"""

import os
import pathlib
import resource
import socket
import struct
import time

TOGETHER = 256  # messages that are unanswered at a time: as build/load does it, and far from any backlog
PATIENCE_SECONDS = 20
SETTLE_SECONDS = 0.5  # what the kernel frees, it frees a little later
MESSAGE_BYTES = 64
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # no TIME_WAIT, so that what is gone is gone


class IdleFailed(Exception):
    """A connection that did not open, or did not answer; one sentence."""


def most_descriptors():
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def lift_descriptor_limit():
    """As far as the hard limit allows. Children inherit it."""
    hard = most_descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class IdleClients:
    """`count` connections to a server on `where`, a port of 127.0.0.1 or the path of a Unix-domain socket."""

    def __init__(self, where, count):
        self._sockets = []
        self._rounds = 0
        try:
            for first in range(0, count, TOGETHER):
                group = [self._connect(where) for _ in range(min(TOGETHER, count - first))]
                self._speak(group, first)  # accepted by now, all of them: the backlog is empty again
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _connect(self, where):
        client = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
        self._sockets.append(client)
        client.settimeout(PATIENCE_SECONDS)
        try:
            client.connect(where if isinstance(where, str) else ("127.0.0.1", where))
        except OSError as error:
            raise IdleFailed(f"connection {len(self._sockets)} could not be opened: {error}") from None
        return client

    def speak(self, rounds=1):
        """Every connection sends a message and gets it back; IdleFailed otherwise."""
        for _ in range(rounds):
            self._rounds += 1
            for first in range(0, len(self._sockets), TOGETHER):
                self._speak(self._sockets[first:first + TOGETHER], first)

    def _speak(self, group, first):
        for number, client in enumerate(group, first):
            self._try(number, lambda: client.sendall(self._message(number)))
        for number, client in enumerate(group, first):
            got = self._try(number, lambda: client.recv(MESSAGE_BYTES, socket.MSG_WAITALL))
            if got != self._message(number):
                raise IdleFailed(f"connection {number} got {len(got)} bytes that are not its message")

    def _message(self, number):
        return f"connection {number}, round {self._rounds}".encode().ljust(MESSAGE_BYTES, b".")

    @staticmethod
    def _try(number, what):
        try:
            return what()
        except OSError as error:
            raise IdleFailed(f"connection {number} did not answer: {error}") from None

    def close(self):
        for client in self._sockets:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            client.close()
        self._sockets.clear()


# ---- What they cost ----------------------------------------------------------------------------------------------


def snapshot(pid):
    """Bytes, of a server that has had the time to come to rest."""
    time.sleep(SETTLE_SECONDS)
    return process_memory(pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()) | kernel_memory()


def process_memory(smaps_rollup):
    """Private_Dirty is what nobody else has and what no file holds: the server's own."""
    fields = dict(line.split(":", 1) for line in smaps_rollup.splitlines() if line.endswith(" kB"))
    return {"private_dirty": _kilobytes(fields["Private_Dirty"]), "rss": _kilobytes(fields["Rss"])}


def kernel_memory():
    """Of all sockets and processes of this machine, so only differences say something, and only on a quiet one."""
    return {"socket_buffers": socket_buffers(pathlib.Path("/proc/net/sockstat").read_text()),
            "sockets": sockets_in_use(pathlib.Path("/proc/net/sockstat").read_text()),
            "slab": slab_bytes()}


def socket_buffers(sockstat):
    """`mem` of the TCP line: what lies in send and receive buffers, in pages."""
    words = _line_of(sockstat, "TCP:")
    return int(words[words.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE")


def sockets_in_use(sockstat):
    words = _line_of(sockstat, "TCP:")
    return int(words[words.index("inuse") + 1])


def _line_of(text, begin):
    return next(line for line in text.splitlines() if line.startswith(begin)).split()


def slab_bytes():
    """The kernel's objects (sockets, files, what io_uring and epoll keep for each), {cache: bytes}; None where only
    root may look."""
    try:
        return parse_slabinfo(pathlib.Path("/proc/slabinfo").read_text())
    except OSError:
        return None


def parse_slabinfo(text):
    rows = [line.split() for line in text.splitlines() if line and not line.startswith(("#", "slabinfo"))]
    return {row[0]: int(row[1]) * int(row[3]) for row in rows}


def _kilobytes(value):
    return int(value.split()[0]) * 1024


def descriptors(pid):
    """How many are open. Since Linux 6.2 the folder's size says it; listing 10,000 would leave as many entries in the
    kernel's caches, which are being measured."""
    return os.stat(f"/proc/{pid}/fd").st_size or len(os.listdir(f"/proc/{pid}/fd"))


def wait_until_gone(pid, descriptors_before):
    """Until the server has closed what its clients have closed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while descriptors(pid) > descriptors_before:
        if time.monotonic() > deadline:
            raise IdleFailed(f"{descriptors(pid) - descriptors_before} connections are still open in the server "
                             f"{PATIENCE_SECONDS} s after their clients have gone")
        time.sleep(0.02)


# ---- The measurement ---------------------------------------------------------------------------------------------

WARM_CONNECTIONS, WARM_ROUNDS = 128, 100


def measure(server, count):
    """Four looks at `server`, in bytes: before there was a connection, at 0 idle ones (warm), at `count` idle ones, and
    when those have gone.

    Warm means: 128 connections have sent 100 messages each, enough to have used every buffer of a pool, and have gone.
    Not `count` connections: a server that keeps what it allocated for them would seem to need nothing.
    """
    looks = {"start": snapshot(server.pid)}
    at_start = descriptors(server.pid)  # it may still have opened some when it said that it listens
    with IdleClients(server.port or server.path, WARM_CONNECTIONS) as clients:
        clients.speak(WARM_ROUNDS)
    wait_until_gone(server.pid, at_start)
    looks["zero"] = snapshot(server.pid)
    with IdleClients(server.port or server.path, count) as clients:
        looks["idle"] = snapshot(server.pid)
        clients.speak()
    wait_until_gone(server.pid, at_start)
    looks["gone"] = snapshot(server.pid)
    return looks


def figures(looks, count):
    """Bytes for each connection; the kernel's with both ends, since the clients live on the same machine."""
    zero, idle, gone = looks["zero"], looks["idle"], looks["gone"]
    return {
        "own": (idle["private_dirty"] - zero["private_dirty"]) / count,
        "kept": (gone["private_dirty"] - zero["private_dirty"]) / count,
        "kernel": (sum(idle["slab"].values()) - sum(zero["slab"].values())) / count if zero["slab"] else None,
        "buffers": (idle["socket_buffers"] - zero["socket_buffers"]) / count,
        "sockets": (idle["sockets"] - zero["sockets"]) / count,
        "at_zero": zero["private_dirty"],
        "rss": idle["rss"],
    }


def growing_caches(looks, count):
    """{cache: bytes a connection} of the kernel's caches that grew by at least 8 bytes a connection."""
    if not looks["zero"]["slab"]:
        return {}
    before, after = looks["zero"]["slab"], looks["idle"]["slab"]
    grown = {name: (after[name] - before.get(name, 0)) / count for name in after}
    return {name: round(size) for name, size in sorted(grown.items(), key=lambda item: -item[1]) if size >= 8}
