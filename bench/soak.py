#!/usr/bin/env -S python3 -B
"""make soak: a server under mixed load for a long time, watched every second. bench/soak.md says what is judged.

    make soak SERVER=m3 MINUTES=10
    make soak SERVER='m3 --recv single --files direct' MINUTES=1

All at once, at rates well below the peak: ping-pong, pipelined and short-lived connections from build/load; clients
that hardly read and clients that vanish in the middle of things (soak_clients.py). Every byte is verified. Each second
the server is looked at: /proc, and the tables that it prints on SIGUSR1. Afterwards soak_report.py judges the series.

Exit code: 0 it held, 1 it did not, and the last line says why; 2 usage; 3 there is no io_uring here; 130 interrupted.
"""

import argparse
import os
import pathlib
import random
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass

import soak_clients
import soak_report
from measure import load, machine
from measure.servers import Server, ServerFailed

SERVERS = {"m3": "m3_echo_server", "sqpoll": "m3_echo_server_sqpoll", "epoll": "epoll_echo_server",
           "m2": "m2_file_server", "zc": "m4_zero_copy", "epoll-file": "epoll_file_server"}
FILE_SERVERS = ("m2_file_server", "m4_zero_copy", "epoll_file_server")
SLICES = 15  # of the load's time; each is one run of build/load, with connections of its own
LONGEST_SLICE = 10  # seconds
SLOW_READERS = 8  # each holds a buffer or two all the time, and too few to use them up, which would hide a leak
VANISHERS = 4  # some twenty connections a second
PATIENCE = 10  # seconds for a server to give back what it held; those that end get 5 from the server itself
ANSWER_SECONDS = 1  # for the tables
LAST_SLICE_SECONDS = 5  # beyond the time: the generators start, and at the end wait for the servers' FINs
NO_IO_URING = 3  # a server's exit code
PAGE = os.sysconf("SC_PAGE_SIZE")

# ---- The load ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """One kind of traffic. Its rate is offered, so that a drift is the server's and not the machine's; without a rate
    it is a burst at full speed in each slice, a second at most, and not part of the throughput."""
    name: str
    options: tuple
    rate: int = 0


ECHO_STREAMS = (
    Stream("ping-pong", ("echo", "--connections", 32, "--size", 64), 1500),
    Stream("pipelined", ("echo", "--connections", 8, "--depth", 16, "--size", "4K"), 800),
    Stream("churn", ("churn", "--connections", 8), 200),
)


def file_streams(paths):
    return (
        Stream("whole files", ("file", "--connections", 16, "--depth", 2, "--paths", paths), 300),
        Stream("ranges", ("file", "--connections", 32, "--path", "made.16M.0", "--random-ranges", "4K"), 1500),
        Stream("churn", ("churn", "--connections", 8, "--path", "made.4K.0"), 200),
        Stream("mixed", ("mixed", "--connections", 8, "--get-connections", 8, "--path", "made.16M.0",
                         "--random-ranges", "4K")),
    )


class Halt(Exception):
    """The load is over: raised in the threads that run generators."""


class Watch:
    """What the threads of the load write and the watching thread reads."""

    def __init__(self):
        self.stop = threading.Event()
        self.tally = soak_clients.Tally()
        self.slices = []
        self.errors = 0
        self.first = ""  # of them
        self.answered = 0
        self.trouble = ""  # what ends the run at once

    def give_up(self, sentence):
        self.trouble = self.trouble or sentence
        self.stop.set()

    def count_errors(self, name, count, first):
        self.errors += count
        self.first = self.first or f"{name}: {first}"

    def add_slice(self, stream, start, raw):
        """One run of a generator, successful or not."""
        answered = sum(traffic["verified_all"] for traffic in raw["traffic"])
        self.answered += answered
        seconds = raw.get("seconds") or 0
        rate = sum(traffic.get("verified") or 0 for traffic in raw["traffic"]) / seconds if seconds else 0
        self.slices.append({"stream": stream.name, "offered": stream.rate > 0, "start": start, "end": self.now(),
                            "rate": rate, "disturbed": bool(raw.get("disturbed"))})

    def begin(self):
        self.started = time.monotonic()

    def now(self):
        return time.monotonic() - self.started


def run_slice(settings, watch, port, stream, seconds, seed):
    pace = ["--rate", stream.rate] if stream.rate else []
    options = [*stream.options, *pace, "--seconds", round(seconds, 2), "--warmup", 0, "--seed", seed]
    start = watch.now()

    def look():
        if watch.stop.is_set():
            raise Halt
    try:
        raw = load.run(load.command(settings.build / "load", port, options, settings.load_cpu), seconds, look)
    except load.LoadFailed as error:
        raw = error.raw
        if raw is None or raw.get("wrong"):
            watch.give_up(f"{stream.name}: {error}")
            return
        errors = raw.get("errors", {})
        watch.count_errors(stream.name, sum(n for n in errors.values() if isinstance(n, int)) or 1, str(error))
    if raw.get("left_open"):
        watch.count_errors(stream.name, raw["left_open"], "connections that the server did not close after a FIN")
    watch.add_slice(stream, start, raw)


def run_stream(settings, watch, port, stream):
    """One slice after another until the time is over. For a thread of its own."""
    length = min(LONGEST_SLICE, settings.seconds / SLICES)
    seed = 0
    try:
        while not watch.stop.is_set():
            seed += 1
            # The last one ends with the time: what is left when a slice is over is shared by full ones.
            left = settings.seconds - watch.now()
            if left < length / 2:
                return
            burst = min(1, length / 4) if stream.rate == 0 else min(length, left)
            run_slice(settings, watch, port, stream, burst, seed)
            if stream.rate == 0:
                watch.stop.wait(length - burst)
    except Halt:
        pass
    except Exception as error:  # a thread that dies in silence would look like peace
        watch.give_up(f"{stream.name}: {type(error).__name__}: {error}")


def start_load(settings, watch, port, streams, talk):
    rude = soak_clients.clients(port, talk, SLOW_READERS, VANISHERS)
    threads = [threading.Thread(target=run_stream, args=(settings, watch, port, stream)) for stream in streams]
    threads.append(threading.Thread(target=soak_clients.drive, args=(rude, watch.tally, watch.stop)))
    for thread in threads:
        thread.start()
    return threads


# ---- The server, looked at ---------------------------------------------------------------------------------------


def resident_bytes(pid):
    """smaps_rollup counts pages; VmRSS of status is a sum that may lag by some hundred KiB."""
    for file in ("smaps_rollup", "status"):
        try:
            found = re.search(r"^(?:Rss|VmRSS):\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/{file}").read_text(), re.M)
        except OSError:
            continue
        if found:
            return int(found[1]) << 10
    return None


def mapped(pid):
    """Ranges of addresses that cannot grow: buffers, rings, the program itself. All but heap and stack."""
    found = []
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, rights, *_, name = line.split(maxsplit=5) + [""] * (line.count(" ") < 5)
        start, end = (int(address, 16) for address in addresses.split("-"))
        if rights != "---p" and end - start <= 1 << 30 and end < 1 << 63 and name.strip() not in ("[heap]", "[stack]"):
            found.append((start, end))
    return found


def resident_within(pid, ranges):
    """Bytes of these ranges that are in memory: the top bit of each page's eight bytes in pagemap says so."""
    pages = 0
    try:
        with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
            for start, end in ranges:
                entries = os.pread(pagemap.fileno(), (end - start) // PAGE * 8, start // PAGE * 8)
                pages += sum(byte >> 7 for byte in entries[7::8])
    except OSError:
        return None
    return pages * PAGE


def cpu_seconds(pid):
    """Of all its threads, those of the kernel that work for it included."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None


def descriptors(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None


TABLES = {
    "operations": re.compile(r"(\d+) operations in flight"),
    "buffers": re.compile(r"(\d+) of \d+(?: buffers)? in use"),
    "connections": re.compile(r"^(?:connections: (\d+)$|(\d+) connections\b)", re.M),
}


def read_tables(text):
    """What a server prints on SIGUSR1, as numbers; None for what it does not have."""
    found = {}
    for key, pattern in TABLES.items():
        match = pattern.search(text)
        found[key] = int(next(group for group in match.groups() if group)) if match else None
    return found


class Looking:
    """Samples of one server."""

    def __init__(self, server):
        self.server = server
        self.offset = 0
        self.samples = []
        self.fixed = mapped(server.pid)

    def ask_for_tables(self):
        _, self.offset = self.server.heard_since(self.offset)
        os.kill(self.server.pid, signal.SIGUSR1)
        deadline = time.monotonic() + ANSWER_SECONDS
        text = ""
        while time.monotonic() < deadline:
            time.sleep(0.01)
            more, self.offset = self.server.heard_since(self.offset)
            if text and not more:
                break  # it has said all
            text += more
        return read_tables(text)

    def look(self, phase, seconds):
        pid = self.server.pid
        rss, fixed = resident_bytes(pid), resident_within(pid, self.fixed)
        sample = {"seconds": seconds, "phase": phase, "rss": rss, "fds": descriptors(pid),
                  "grown": max(0, rss - fixed) if rss and fixed is not None else rss, "cpu_seconds": cpu_seconds(pid)}
        try:
            sample |= self.ask_for_tables()
        except ProcessLookupError:
            sample |= dict.fromkeys(TABLES)
        self.samples.append(sample)
        return sample


# ---- The run -----------------------------------------------------------------------------------------------------


def make_files(settings, folder):
    """For a file server: some that build/load knows, and one for soak_clients.py. Returns the list and its talk."""
    made = subprocess.run([settings.build / "load", "make-files", "--count", "8", "--sizes", "4K,64K,256K",
                           "--big", "16M", folder], capture_output=True, text=True)
    if made.returncode != 0:
        raise ServerFailed(f"make-files: {made.stderr.strip()}")
    paths = pathlib.Path(folder) / "paths"
    paths.write_text("".join(line + "\n" for line in made.stdout.splitlines() if "16M" not in line))
    contents = random.Random(2).randbytes(1 << 20)
    (pathlib.Path(folder) / "soak.bin").write_bytes(contents)
    return paths, soak_clients.file_talk("soak.bin", contents)


def watch_load(settings, watch, looking):
    """Until the time is over or something is wrong."""
    while watch.now() < settings.seconds and not watch.stop.is_set():
        looking.look("load", watch.now())
        if watch.tally.wrong:
            watch.give_up(watch.tally.wrong)
        if not looking.server.is_alive():
            return
        watch.stop.wait(settings.interval - watch.now() % settings.interval)


def watch_idle(watch, looking, kept_open):
    """After the load: until all is given back, or patience is over."""
    deadline = time.monotonic() + PATIENCE
    while looking.server.is_alive():
        looking.look("after", watch.now())
        if not soak_report.idle_complaints(looking.samples, kept_open) or time.monotonic() > deadline:
            return
        time.sleep(0.2)


def soak(settings, folder, watch):
    """Returns (samples, files that the server may keep open)."""
    program, *options = settings.server
    is_file_server = program in FILE_SERVERS
    kept_open = 0
    streams, talk = ECHO_STREAMS, soak_clients.echo_talk()
    if is_file_server:
        paths, talk = make_files(settings, folder)
        streams, options = file_streams(paths), ["--root", folder, *options]
        kept_open = len(os.listdir(folder))
    with Server([settings.build / program, "--port", "0", *options], settings.server_cpu) as server:
        looking = Looking(server)
        looking.look("before", 0)
        watch.begin()
        threads = start_load(settings, watch, server.port, streams, talk)
        try:
            watch_load(settings, watch, looking)
            for thread in threads[:len(streams)]:
                thread.join(LAST_SLICE_SECONDS)
        except KeyboardInterrupt:
            settings.interrupted = True
        finally:
            watch.stop.set()
            for thread in threads:
                thread.join()
        try:
            watch_idle(watch, looking, kept_open)
            ended_early = not server.is_alive()
            server.stop()
            if ended_early:
                watch.give_up("the server ended by itself")
        except KeyboardInterrupt:
            settings.interrupted = True
        except ServerFailed as error:
            watch.give_up(str(error))  # a leak that it found itself, or a bad end
    return looking.samples, kept_open


def complaints(settings, watch, samples, kept_open):
    if watch.trouble:
        return [watch.trouble]
    if settings.interrupted:
        return []
    counts = watch.tally
    return [
        *soak_report.growth_complaints(samples),
        *soak_report.idle_complaints(samples, kept_open),
        *soak_report.error_complaint(watch.errors + counts.errors, watch.answered + counts.rounds,
                                     watch.first or counts.first),
        *soak_report.drift_complaint(watch.slices, settings.seconds),
    ]


def report(settings, watch, samples):
    """Files first, then the lines for a person."""
    settings.results.mkdir(parents=True, exist_ok=True)
    name = settings.name
    table, picture = settings.results / f"{name}.csv", settings.results / f"{name}.svg"
    soak_report.write_csv(table, samples, watch.slices)
    what = f"{shlex.join(settings.server)}, {settings.seconds:g} s of mixed load"
    picture.write_text(soak_report.draw(what, samples, watch.slices), encoding="utf-8")
    tally = watch.tally
    counts = {"errors": watch.errors + tally.errors, "answered": watch.answered + tally.rounds,
              "rude": f"{tally.rounds:,} connections of slow readers and vanishing clients, "
                      f"{tally.verified / 2**20:,.0f} MiB verified"}
    print("\n".join(soak_report.lines_of(samples, watch.slices, settings.seconds, counts)))
    print(f"  {table}  {picture}")


def parse(words):
    parser = argparse.ArgumentParser(prog="soak.py", allow_abbrev=False, description=__doc__.partition("\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default="build", help="where the programs are (%(default)s)")
    parser.add_argument("--results", type=pathlib.Path, default="build/soak", help="for CSV and picture (%(default)s)")
    parser.add_argument("--server", default="m3", metavar="'NAME [OPTION...]'",
                        help=f"{', '.join(SERVERS)}; options are handed on (%(default)s)")
    parser.add_argument("--minutes", type=float, default=10, help="of load (%(default)s)")
    parser.add_argument("--interval", type=float, default=1, help="between two looks, in seconds (%(default)s)")
    settings = parser.parse_args(words)
    name, *options = shlex.split(settings.server) or [""]
    if name not in SERVERS or settings.minutes <= 0 or settings.interval <= 0:
        parser.error(f"--server is one of {', '.join(SERVERS)}; all numbers are more than 0")
    settings.server = [SERVERS[name], *options]
    settings.name = re.sub(r"[^\w.]+", "-", shlex.join([name, *options]))
    settings.seconds = settings.minutes * 60
    settings.interrupted = False
    settings.server_cpu, settings.load_cpu = machine.measuring_cpus()
    return settings


def main(words):
    settings = parse(words)

    def interrupt(*_):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, interrupt)
    if settings.load_cpu is not None:
        os.sched_setaffinity(0, {settings.server_cpu, settings.load_cpu})
    print(f"soak: {shlex.join(settings.server)}, {settings.seconds:g} s of mixed load", flush=True)
    watch = Watch()
    try:
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            samples, kept_open = soak(settings, folder, watch)
    except (ServerFailed, OSError) as error:
        print(f"soak: FAILED: {error}")
        return NO_IO_URING if getattr(error, "status", None) == NO_IO_URING else 1
    except KeyboardInterrupt:
        return 130
    report(settings, watch, samples)
    found = complaints(settings, watch, samples, kept_open)
    for sentence in found:
        print(f"soak: FAILED: {sentence}")
    if not found:
        print("soak: interrupted, and not judged" if settings.interrupted else "soak: it held")
    return 1 if found else 130 if settings.interrupted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
