#!/usr/bin/env -S python3 -B
"""make bench-ceilings: what nobody gets below on this machine, and where the CPU time of the servers goes.

First build/ceilings (its head says how): a bare recv and send on loopback TCP and on Unix-domain sockets, and memcpy.
Then perf(1), where it is there and permitted, looks at servers under load about a thousand times a second, and each
look is sorted by the functions on the kernel's stack:

    TCP/IP       below a function of TCP, IP or the device: the same code whoever asked for it
    copying      in a function that copies between user space and the kernel, or within it
    sleeping     going to sleep, being woken, waking others
    user space   in the program itself

A look may count twice (bytes are copied below tcp_sendmsg). The clock of perf that exists everywhere, cpu-clock, cannot
look while interrupts are off, so a share is good to some per cent, and a difference of three is none.

    bench/ceilings.py [--quick] [--build build] [--results build/bench-ceilings] [--report FILE]

Exit code: 0, 1 (build/ceilings failed), 130 (interrupted). Where perf is not permitted, that is in the results.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from measure import load, machine, table
from measure.record import Progress, Record
from measure.servers import Server, ServerFailed, last_words

LOOKS_A_SECOND = 999  # not a round number: what happens each millisecond would be met always or never

# By the names of Linux 5.11 to 6.18.
NETWORK = ("tcp_", "__tcp_", "ip_", "__ip_", "ip6_", "net_rx_action", "__netif_receive", "process_backlog",
           "__dev_queue_xmit", "loopback_xmit", "inet_sendmsg", "inet_recvmsg")
COPYING = ("rep_movs", "rep_stos", "copy_user_", "_copy_to_iter", "_copy_from_iter", "__memcpy", "memcpy",
           "copy_page_to_iter", "copy_to_user", "copy_from_user", "_copy_to_user", "_copy_from_user", "copy_mc_")
SLEEPING = ("schedule", "__schedule", "try_to_wake_up", "wake_up_process", "ttwu_", "default_idle",
            "finish_task_switch")
SHARES = {"network": "TCP/IP", "copying": "copying", "sleeping": "sleeping", "user": "user space"}


@dataclass(frozen=True)
class Profile:
    cell: str  # of bench/echo_servers.py or bench/file_servers.py: the same load
    key: str
    label: str
    server: tuple
    load: tuple
    unix: bool = False


ECHO_WAYS = [("epoll", "epoll", "epoll_echo_server"), ("uring", "io_uring", "m3_echo_server")]


def echo(cell, size, connections, unix=False):
    words = ("echo", "--size", size, "--connections", connections)
    return [Profile(cell, key, label, (program,), words, unix)
            for key, label, program in ECHO_WAYS]


FILE_WAYS = [("inline", "epoll inline", ("epoll_file_server", "--io", "inline")),
             ("sendfile", "epoll sendfile", ("epoll_file_server", "--io", "sendfile")),
             ("fixed", "io_uring fixed", ("m2_file_server", "--io", "fixed"))]


def files(cell, size, connections):
    words = ("file", "--paths", f"{{data}}/paths.{size}", "--connections", connections)
    return [Profile(cell, key, label, (*server, "--root", "{data}"), words) for key, label, server in FILE_WAYS]


PROFILES = [*echo("ping-pong/64/1", 64, 1), *echo("ping-pong/64/128", 64, 128),
            *echo("ping-pong/16K/128", "16K", 128), *echo("unix/64/128", 64, 128, unix=True),
            *echo("churn/64/16", 64, 16), *files("cached/whole-64K/10", "64K", 10)]


# ---- What the looks say ------------------------------------------------------------------------------------------


def stacks(text):
    """Of `perf script -F ip,sym,dso`: a list of (functions from the innermost outwards, whether in the kernel)."""
    found, stack, in_kernel = [], [], False
    for line in [*text.splitlines(), ""]:
        words = line.split()
        if words:
            if not stack:
                in_kernel = "kernel" in words[-1] or words[-1].endswith(".ko)")
            stack.append(words[1].partition("+")[0] if len(words) > 1 else "unknown")
        elif stack:
            found.append((stack, in_kernel))
            stack = []
    return found


def shares(looks):
    """{network, copying, sleeping, user: share of the looks}; None of none."""
    if not looks:
        return None

    def below(names):
        return sum(any(function.startswith(names) for function in stack) for stack, _ in looks) / len(looks)
    return {"looks": len(looks), "network": below(NETWORK), "copying": sum(
        stack[0].startswith(COPYING) for stack, _ in looks) / len(looks), "sleeping": below(SLEEPING),
        "user": sum(not in_kernel for _, in_kernel in looks) / len(looks)}


def look_at(pid, seconds, folder, cpu):
    """Runs perf beside the load. A function that ends it and returns its text, or why there is none."""
    recorded = folder / "perf.data"
    recorder = subprocess.Popen(["taskset", "-c", str(cpu)] * (cpu is not None) + [
        "perf", "record", "-q", "-e", "cpu-clock", "-F", str(LOOKS_A_SECOND), "-g", "-p", str(pid), "-o", recorded,
        "--", "sleep", str(seconds)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True)

    def finish():
        try:
            _, said = recorder.communicate(timeout=seconds + 30)
        except BaseException:
            recorder.kill()
            recorder.wait()
            raise
        if recorder.returncode != 0 or not recorded.exists():
            return None, f"perf record: {last_words(said) or 'failed'}"
        done = subprocess.run(["perf", "script", "-i", recorded, "-F", "ip,sym,dso"], capture_output=True, text=True,
                              errors="replace")
        return done.stdout, None if done.returncode == 0 else f"perf script: {last_words(done.stderr)}"
    return finish


def profile(settings, one, folder):
    """{shares} or {why}: not an exception, a machine without perf is a machine."""
    def put_in(words):
        return [str(word).format(data=folder) for word in words]
    where = ["--unix", folder / "socket"] if one.unix else ["--port", "0"]
    program, *options = put_in(one.server)
    try:
        with Server([settings.build / program, *options, *where], settings.server_cpu) as server:
            mode, *rest = put_in(one.load)
            mode = "churn" if one.cell.startswith("churn") else mode
            words = load.command(settings.build / "load", server.port or server.path, [
                mode, *rest, "--seconds", settings.seconds + 0.2, "--warmup", 0.1], settings.load_cpu)
            began = []

            def begin():
                if not began:  # at the first tick, the connections stand by now
                    began.append(look_at(server.pid, settings.seconds, folder, settings.load_cpu))
            load.run(words, settings.seconds + 0.3, on_tick=begin)
            text, why = began[0]() if began else (None, "the load was over at once")
            server.stop()
    except (ServerFailed, load.LoadFailed, OSError) as error:
        return {"why": str(error)}
    found = shares(stacks(text)) if text is not None else None
    return {"shares": found} if found else {"why": why or "perf saw nothing"}


def measure_profiles(settings, record, progress):
    with tempfile.TemporaryDirectory(prefix="ceilings-") as name:
        folder = pathlib.Path(name)
        subprocess.run([settings.build / "load", "make-files", "--sizes", "64K", "--count", "64", "--big", "0", folder],
                       check=True, capture_output=True)
        (folder / "paths.64K").write_text("".join(f"made.64K.{number}\n" for number in range(64)))
        for one in PROFILES:
            progress.show(one.cell, f"{one.label}, perf")
            found = profile(settings, one, folder)
            record.data["profiles"].append({"cell": one.cell, "key": one.key, "label": one.label} | found)
            record.save()
            progress.step()


PERF_SETTINGS = {"perf_event_paranoid": 1, "kptr_restrict": 0}  # above that an ordinary user sees no kernel


def setting_of_kernel(name):
    try:
        return int(pathlib.Path(f"/proc/sys/kernel/{name}").read_text())
    except (OSError, ValueError):
        return 0


def why_no_perf():
    if not shutil.which("perf"):
        return "perf is not installed (Debian: linux-perf)"
    if os.geteuid() != 0 and any(setting_of_kernel(name) > most for name, most in PERF_SETTINGS.items()):
        return "perf may not look into the kernel here: only root may (kernel.perf_event_paranoid, kernel.kptr_restrict)"
    done = subprocess.run(["perf", "record", "-q", "-e", "cpu-clock", "-g", "-o", "/dev/null", "--", "true"],
                          capture_output=True, text=True)
    return None if done.returncode == 0 else f"perf is not permitted here: {last_words(done.stderr, 120)}"


# ---- The report: a function of results.json ----------------------------------------------------------------------


def report_text(data):
    lines = [data["text"]]
    if data["perf"]:
        return "\n".join([*lines, f"shares of the servers' CPU time: {data['perf']}", ""])
    rows = [["", "server", *SHARES.values(), "looks"]]
    for found in data["profiles"]:
        seen = found.get("shares")
        words = ([table.share(seen[key]) for key in SHARES] + [str(seen["looks"])] if seen
                 else ["–"] * len(SHARES) + [found["why"]])
        rows.append(["  " + found["cell"], found["label"], *words])
    return "\n".join([*lines, "Where the servers' CPU time goes, at full speed (perf):", *table.sentences(rows), ""])


# ---- The whole of it ---------------------------------------------------------------------------------------------


def parse(words):
    parser = argparse.ArgumentParser(prog="ceilings.py", allow_abbrev=False, description=__doc__.partition("\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default="build", help="where the programs are (%(default)s)")
    parser.add_argument("--results", type=pathlib.Path, default="build/bench-ceilings",
                        help="where results.json goes (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="shorter runs, fewer looks")
    parser.add_argument("--report", type=pathlib.Path, metavar="FILE", help="print what this results.json says")
    settings = parser.parse_args(words)
    settings.seconds = 0.5 if settings.quick else 2
    settings.server_cpu, settings.load_cpu = machine.measuring_cpus()
    return settings


def measure(settings, record):
    program = settings.build / "ceilings"
    written = settings.results / "bare.json"
    done = subprocess.run([program, *(["--quick"] if settings.quick else []), "--json", written], capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, start_new_session=True)
    if done.returncode != 0:
        raise OSError(f"{program}: {last_words(done.stderr)}")
    record.data |= json.loads(written.read_text(encoding="utf-8")) | {"text": done.stdout}
    record.save()
    if record.data["perf"] is None:
        progress = Progress(len(PROFILES), settings.seconds + 1.5)
        try:
            measure_profiles(settings, record, progress)
        finally:
            progress.clear()


def main(words):
    settings = parse(words)
    if settings.report:
        print(report_text(json.loads(settings.report.read_text(encoding="utf-8"))))
        return 0

    def interrupt(*_):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, interrupt)
    record = Record(settings.results / "results.json", {
        "machine": machine.facts(), "settings": {"quick": settings.quick, "seconds": settings.seconds},
        "perf": why_no_perf(), "pairs": [], "memcpy": [], "profiles": [], "text": "", "complete": False})
    try:
        measure(settings, record)
        record.data["complete"] = True
    except KeyboardInterrupt:
        return 130
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"ceilings: {error}", file=sys.stderr)
        return 1
    finally:
        record.save()
    print(report_text(record.data))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
