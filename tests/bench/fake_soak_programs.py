"""Stands for what bench/soak.py runs; test_soak.py makes the copies. Under the name of a server it is an echo server,
as small as it can be, with a table on SIGUSR1; under the name `load` it claims that all went well. What goes wrong is
asked for with FAKE_TROUBLE, and a number of seconds after which it begins, in FAKE_AFTER:

    descriptors | memory | operations | buffers    leaks some for each connection
    keeps             is quiet under load, and keeps what clients held when they have gone
    wrong-byte        one byte of what it sends back is another one
    dies              the server is killed
    load-wrong-byte   the generator finds a wrong byte
    errors            one message in a hundred of the generator's fails
    slower            the generator's rate falls to a half
    no-ring           there is no io_uring
"""

import json
import os
import pathlib
import selectors
import signal
import socket
import sys
import time

TROUBLE = os.environ.get("FAKE_TROUBLE", "")
AFTER = float(os.environ.get("FAKE_AFTER", "0"))
STARTED = time.monotonic()


def has(trouble):
    return TROUBLE == trouble and time.monotonic() - STARTED > AFTER


class EchoServer:
    def __init__(self):
        self.clients = {}
        self.held, self.memory = [], []
        self.operations = self.buffers = 0
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.selector.register(self.listener, selectors.EVENT_READ)
        wake_from, wake = socket.socketpair()
        wake_from.setblocking(False)
        wake.setblocking(False)
        self.wake = wake_from
        self.selector.register(self.wake, selectors.EVENT_READ)
        signal.set_wakeup_fd(wake.fileno())
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: None)
        self.keep = wake
        print(f"listening 127.0.0.1:{self.listener.getsockname()[1]}", flush=True)

    def run(self):
        while True:
            for key, events in self.selector.select():
                if key.fileobj is self.wake:
                    self.on_signal(self.wake.recv(1)[0])
                elif key.fileobj is self.listener:
                    self.accept()
                else:
                    self.serve(key.fileobj, events)

    def on_signal(self, number):
        if number == signal.SIGTERM:
            print(json.dumps({"requests": 1, "leaks": 0}), flush=True)
            os._exit(0)
        print(f"ring: {1 + len(self.clients) + self.operations} operations in flight\n"
              f"buffers: {self.buffers} of 1024 in use, 0 connections wait for one\n"
              f"{len(self.clients)} connections", file=sys.stderr, flush=True)

    def accept(self):
        client, _ = self.listener.accept()
        client.setblocking(False)
        self.clients[client] = [b"", False]
        self.selector.register(client, selectors.EVENT_READ)
        if has("dies"):
            os.abort()
        self.leak()

    def leak(self):
        if has("descriptors"):
            self.held.append(os.dup(0))
        if has("memory"):
            self.memory.append(bytearray(os.urandom(100 << 10)))
        if has("operations"):
            self.operations += 1
        if has("buffers"):
            self.buffers += 3

    def serve(self, client, events):
        state = self.clients[client]
        try:
            if events & selectors.EVENT_READ:
                data = client.recv(1 << 16)
                state[1] = not data
                if data and has("wrong-byte"):
                    data = bytes([data[0] ^ 1]) + data[1:]
                state[0] += data
            if state[0]:
                state[0] = state[0][client.send(state[0]):]
        except BlockingIOError:
            pass
        except OSError:
            self.close(client)
            return
        if state[1] and not state[0]:
            self.close(client)
            return
        wanted = (selectors.EVENT_WRITE if state[0] else 0) | \
                 (selectors.EVENT_READ if not state[1] and len(state[0]) < 1 << 16 else 0)
        self.selector.modify(client, wanted)

    def close(self, client):
        self.selector.unregister(client)
        del self.clients[client]
        client.close()
        if has("keeps") and len(self.held) < 3:
            self.held.append(os.dup(0))


def generate(words):
    seconds = float(words[words.index("--seconds") + 1])
    rate = float(words[words.index("--rate") + 1])
    mark = pathlib.Path(sys.argv[0]).parent / "load.started"
    if not mark.exists():
        mark.touch()
    late = time.time() - mark.stat().st_mtime > AFTER
    time.sleep(seconds)
    if late and TROUBLE == "load-wrong-byte":
        print(json.dumps({"ok": False, "wrong": {"kind": "wrong byte", "sentence": "byte 7: expected 0x5a, got 0xc1"}}))
        sys.exit(1)
    verified = round(rate * seconds * (0.5 if late and TROUBLE == "slower" else 1))
    failed = verified // 100 if TROUBLE == "errors" else 0
    print(json.dumps({
        "ok": failed == 0, "seconds": seconds, "disturbed": False, "left_open": 0,
        "traffic": [{"verified": verified, "verified_all": verified}],
        "errors": {"reset": failed, "first": "reset by the server"},
    }))
    sys.exit(1 if failed else 0)


if pathlib.Path(sys.argv[0]).name == "load":
    generate(sys.argv[1:])
elif TROUBLE == "no-ring":
    print("no io_uring here", file=sys.stderr)
    sys.exit(3)
else:
    EchoServer().run()
