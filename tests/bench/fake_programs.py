"""Stands for every program that bench/file_servers.py runs; test_orchestration.py makes the copies. Under the name of a
server it listens; under the names `load` and `fio` it answers as these do. No network and no time: rates are made up,
by name and by option, so that a test knows what the ratios must be. What goes wrong is asked for with

    FAKE_DEAD=PROGRAM           that server ends before it listens
    FAKE_DIES_LATER=PROGRAM     that server ends when the generator comes
    FAKE_LEAK=PROGRAM           that server ends with exit code 1
    FAKE_WRONG_BYTE=1           the generator finds a wrong byte
    FAKE_SLOW=SECONDS           each run of the generator takes that long
"""

import json
import os
import pathlib
import signal
import sys
import time

RATES = {"sync": 900, "inline": 1000, "pool": 1500, "sendfile": 800, "read": 1800, "fixed": 2000, "zero-copy": 1600}
DEFAULT_IO = {"sync_file_server": "sync", "m4_zero_copy": "zero-copy"}
COUNTERS = {"requests": 1000, "syscalls": 2000, "bytes_out": 4096000, "errors": 0, "leaks": 0}


def is_asked(name, program):
    return os.environ.get(name) == program


def serve(program, words):
    if is_asked("FAKE_DEAD", program):
        sys.exit("cannot create a ring: Operation not permitted")
    signal.signal(signal.SIGTERM, lambda *_: end(program))
    kind = words[words.index("--io") + 1] if "--io" in words else DEFAULT_IO.get(program, "fixed")
    # The port tells the generator whom it asks; nobody connects to it.
    print(f"listening 127.0.0.1:{RATES[kind]}", flush=True)
    if is_asked("FAKE_DIES_LATER", program):
        time.sleep(0.2)
        os.abort()
    while True:
        signal.pause()


def end(program):
    os.write(1, f"{json.dumps(COUNTERS)}\n".encode())  # not print: the signal may have come in the middle of one
    os._exit(1 if is_asked("FAKE_LEAK", program) else 0)


def option(words, name):
    return words[words.index(name) + 1]


def make_files(words):
    folder, count = pathlib.Path(words[-1]), int(option(words, "--count"))
    unit = option(words, "--sizes")
    size = int(unit[:-1]) * {"K": 1 << 10, "M": 1 << 20}[unit[-1]]
    if option(words, "--big") == "2G":
        with open(folder / "made.2G.0", "wb") as file:
            file.truncate(2 << 30)
    for number in range(count):
        with open(folder / f"made.{unit}.{number}", "wb") as file:
            file.truncate(size)


def generate(words):
    time.sleep(float(os.environ.get("FAKE_SLOW", "0")))
    if os.environ.get("FAKE_DIES_LATER"):
        time.sleep(0.5)
        failed = {"ok": False, "errors": {"first": "reset"}}
        print(json.dumps(failed))
        sys.exit(1)
    if os.environ.get("FAKE_WRONG_BYTE"):
        print(json.dumps({"ok": False, "wrong": {"kind": "wrong byte", "sentence": "byte 7: expected 0x5a, got 0xc1"}}))
        sys.exit(1)
    rate = int(option(words, "--rate" if "--rate" in words else "--port"))
    answered = int(option(words, "--messages")) if "--messages" in words else rate
    print(json.dumps({
        "mode": "file", "ok": True, "seconds": 1.0, "bottleneck": "server", "disturbed": False,
        "traffic": [{"per_second": rate, "mb_per_second": rate / 1000, "latency_us": {"p50": 10, "p99": 20},
                     "verified_all": answered}],
        "generator": {"cpu_seconds": 0.3}, "server": {"cpu_seconds": 0.99},
        "server_cpu_us_per_message": 990_000 / rate, "words": words,
    }))


def read_without_a_server(words):
    iops = 2500 if "--iodepth=128" in words else 1000
    percentiles = {"50.000000": 1000, "99.000000": 2000}
    print("fio: this line is no JSON")
    print(json.dumps({"jobs": [{"error": 0, "usr_cpu": 10, "sys_cpu": 20, "read": {
        "iops": iops, "bw_bytes": 4096 * iops, "clat_ns": {"percentile": percentiles}}}]}))


def main():
    program, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
    if program == "fio":
        read_without_a_server(words)
    elif program != "load":
        serve(program, words)
    elif words[0] == "make-files":
        make_files(words)
    else:
        generate(words)


main()
