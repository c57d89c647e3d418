"""Stands for every program that bench/echo_servers.py runs; test_echo_orchestration.py makes the copies. Under the
name of a server it listens and echoes, for those who hold idle connections; under the name `load` it answers as the
generator does, without a message: rates are made up, by the name of the server that it is asked to watch, so that a
test knows what the ratios must be. What goes wrong is asked for with

    FAKE_DEAD=PROGRAM           that server ends before it listens
    FAKE_DIES_LATER=PROGRAM     that server ends when the generator comes
    FAKE_LEAK=PROGRAM           that server ends with exit code 1
    FAKE_LIAR=PROGRAM           that server echoes something else
    FAKE_WRONG_BYTE=1           the generator finds a wrong byte
    FAKE_SLOW=SECONDS           each run of the generator takes that long
"""

import json
import os
import pathlib
import selectors
import signal
import socket
import sys
import time

RATES = {"epoll_echo_server": 1000, "m3_echo_server": 1250}
CALLS = {"epoll_echo_server": 2100, "m3_echo_server": 50}  # for 1000 requests


def is_asked(name, program):
    return os.environ.get(name) == program


def option(words, name):
    return words[words.index(name) + 1]


def serve(program, words):
    if is_asked("FAKE_DEAD", program):
        sys.exit("cannot create a ring: Operation not permitted")
    signal.signal(signal.SIGTERM, lambda *_: end(program))
    if "--unix" in words:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(option(words, "--unix"))
        print(f"listening unix:{option(words, '--unix')}", flush=True)
    else:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        print(f"listening 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    listener.listen(1024)
    if is_asked("FAKE_DIES_LATER", program):
        time.sleep(0.2)
        os.abort()
    echo(program, listener)


def echo(program, listener):
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    selector.register(listener.accept()[0], selectors.EVENT_READ)
                elif not answer(program, key.fileobj):
                    selector.unregister(key.fileobj)
                    key.fileobj.close()


def answer(program, peer):
    try:
        message = peer.recv(4096)
        peer.sendall(message[::-1] if is_asked("FAKE_LIAR", program) else message)
        return message
    except OSError:
        return None


def end(program):
    counters = {"requests": 1000, "syscalls": CALLS[program], "errors": 0, "leaks": 0}
    os.write(1, f"{json.dumps(counters)}\n".encode())  # not print: the signal may have come in the middle of one
    os._exit(1 if is_asked("FAKE_LEAK", program) else 0)


def generate(words):
    time.sleep(float(os.environ.get("FAKE_SLOW", "0")))
    if os.environ.get("FAKE_DIES_LATER"):
        time.sleep(0.5)
        print(json.dumps({"ok": False, "errors": {"first": "reset"}}))
        sys.exit(1)
    if os.environ.get("FAKE_WRONG_BYTE"):
        print(json.dumps({"ok": False, "wrong": {"kind": "wrong byte", "sentence": "byte 7: expected 0x5a, got 0xc1"}}))
        sys.exit(1)
    command = pathlib.Path(f"/proc/{option(words, '--server-pid')}/cmdline").read_text()
    peak = next(rate for program, rate in RATES.items() if program in command)
    rate = int(option(words, "--rate")) if "--rate" in words else peak
    print(json.dumps({
        "mode": "echo", "ok": True, "seconds": 1.0, "bottleneck": "server", "disturbed": False, "late": False,
        "traffic": [{"per_second": rate, "mb_per_second": rate / 1000, "latency_us": {"p50": 10, "p95": 15, "p99": 20},
                     "verified": rate, "verified_all": rate}],
        "generator": {"cpu_seconds": 0.3}, "server": {"cpu_seconds": 0.99, "context_switches": rate // 2},
        "server_cpu_us_per_message": 990_000 / peak, "words": words,
    }))


def main():
    program, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
    if program == "load":
        generate(words)
    else:
        serve(program, words)


main()
