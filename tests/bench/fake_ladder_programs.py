"""Stands for what bench/ladder.py runs; test_ladder.py makes the copies. A server says where it listens and ends with
its counters; the generator's figures are made up from what it finds there, so that a test knows the ratios: each rung
costs a tenth less than the one before. What goes wrong is asked for with

    FAKE_DEAD=WORD       a server with that word in its command line ends before it listens
    FAKE_WRONG_BYTE=1    the generator finds a wrong byte
    FAKE_SLOW=SECONDS    each run of the generator takes that long
    FAKE_SAYS=TEXT       each server says that on stderr
"""

import json
import os
import pathlib
import signal
import sys
import time

ORDER = ["each", "batched", "coop", "defer", "multishot", "direct"]


def rung(program, words):
    """How high on the ladder: 0 is the first rung."""
    if program == "epoll_echo_server":
        return 0
    if program == "m3_echo_server_sqpoll":
        return 5
    return (words["--submit"] == "batched") + ["default", "coop", "defer"].index(words["--taskrun"]) + \
        (words["--recv"] == "multishot") + (words["--files"] == "direct")


def serve(program, line):
    words = dict(zip(line[::2], line[1::2]))
    if os.environ.get("FAKE_DEAD", "\0") in [program, *line]:
        sys.exit("no ring here")
    print(os.environ.get("FAKE_SAYS", ""), end="", file=sys.stderr, flush=True)
    counters = {"requests": 1000, "syscalls": 2000, "cqes": 3000, "leaks": 0,
                "enters": 0 if program.startswith("epoll") else 100}

    def end(*_):
        os.write(1, f"{json.dumps(counters)}\n".encode())  # not print: the signal may have come in the middle of one
        os._exit(0)
    signal.signal(signal.SIGTERM, end)
    if "--unix" in words:
        pathlib.Path(words["--unix"]).write_text(str(rung(program, words)))
        print(f"listening unix:{words['--unix']}", flush=True)
    else:
        print(f"listening 127.0.0.1:{1 + rung(program, words)}", flush=True)  # nobody connects to it
    while True:
        signal.pause()


def generate(line):
    time.sleep(float(os.environ.get("FAKE_SLOW", "0")))
    words = dict(zip(line, line[1:]))
    if os.environ.get("FAKE_WRONG_BYTE"):
        print(json.dumps({"ok": False, "wrong": {"kind": "wrong byte", "sentence": "byte 7: expected 0x5a, got 0xc1"}}))
        sys.exit(1)
    high = int(pathlib.Path(words["--unix"]).read_text()) if "--unix" in words else int(words["--port"]) - 1
    cost = 10 * 0.9 ** high
    rate = float(words.get("--rate", 1e6 / cost))
    print(json.dumps({
        "mode": "echo", "ok": True, "seconds": 1.0, "bottleneck": "server", "disturbed": False,
        "traffic": [{"per_second": rate, "mb_per_second": 1, "latency_us": {"p50": 10, "p99": 20}, "verified": 1000,
                     "verified_all": 1000}],
        "generator": {"cpu_seconds": 0.3}, "server": {"cpu_seconds": 0.99, "context_switches": 500},
        "server_cpu_us_per_message": cost,
    }))


if pathlib.Path(sys.argv[0]).name == "load":
    generate(sys.argv[1:])
else:
    serve(pathlib.Path(sys.argv[0]).name, sys.argv[1:])
