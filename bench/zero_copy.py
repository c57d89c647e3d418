#!/usr/bin/env -S python3 -B
"""make bench-zero-copy, second part: the file server that does not copy against the one that does, over TCP loopback.

    bench/zero_copy.py [--blocks 3] [--seconds 0.6] [--connections 16]

m4_zero_copy --zc-threshold 0, so that every answer goes by SEND_ZC, against m2_file_server: the same options, the same
files, all of them in the page cache. On loopback the kernel copies what it was told not to, and says so in each
notification (zc_copied below), so this table shows what zero copy costs where it cannot help. What it saves where it
can, bench_zero_copy shows, on a device; there is no second machine here.

First each server as fast as it goes, once; then both in turns, A B B A, at 70 % of the lower of the two rates. The ratio
is m2's CPU time for a request ÷ m4's: above 1, zero copy is cheaper. Its median and 95 % bootstrap interval are those of
`build/load --against`. Server on the first CPU, generator, which verifies every byte, on the second.

Exit code: 0, 1 (a server or the generator failed), 3 (no io_uring here), 130 (interrupted).
"""

import argparse
import pathlib
import signal
import subprocess
import sys
import tempfile

from measure import load, machine, stats, table
from measure.record import Record
from measure.servers import Server, ServerFailed

EQUAL_SHARE = 0.7  # of the lower peak
FILES = 16  # of each size
SIZES = ["4K", "16K", "64K", "1M"]
LEAST_BLOCKS = 3  # fewer are not judged
NO_IO_URING = 3


def make_files(settings, folder):
    subprocess.run([settings.build / "load", "make-files", "--sizes", ",".join(SIZES), "--count", str(FILES), "--big",
                    "0", folder], check=True, capture_output=True)
    for size in SIZES:
        names = (f"made.{size}.{number}\n" for number in range(FILES))
        (folder / f"paths.{size}").write_text("".join(names), encoding="utf-8")


def servers(settings, folder):
    """m4 and m2, in this order: the first is the one that a ratio above 1 praises."""
    common = ["--root", folder, "--port", "0"]
    return (Server([settings.build / "m4_zero_copy", *common, "--zc-threshold", "0"], settings.server_cpu),
            Server([settings.build / "m2_file_server", *common], settings.server_cpu))


def measure_size(settings, folder, size):
    seconds, warmup = settings.seconds, settings.warmup
    options = ["file", "--connections", settings.connections, "--seconds", seconds, "--warmup", warmup,
               "--paths", folder / f"paths.{size}"]

    def run(port, extra, runs):
        words = load.command(settings.build / "load", port, [*options, *extra], settings.load_cpu)
        return load.run(words, runs * (seconds + warmup))

    zero_copy, copying = servers(settings, folder)
    with zero_copy, copying:
        peaks = [run(server.port, [], 1)["traffic"][0]["per_second"] for server in (zero_copy, copying)]
        rate = round(EQUAL_SHARE * min(peaks))
        raw = run(zero_copy.port, ["--rate", rate, "--blocks", settings.blocks, "--server-pid", zero_copy.pid,
                                   "--against", copying.port, "--against-pid", copying.pid], 4 * settings.blocks)
        counters = [server.stop() for server in (zero_copy, copying)]
    return {"size": size, "peaks": peaks, "rate": rate, "counters": counters, "load": raw}


def typical(result, places):
    """CPU time for a request, of the runs at these places of A B B A."""
    return stats.median([block[place]["server_cpu_us_per_message"] for block in result["load"]["blocks"]
                         for place in places])


COLUMNS = ["size", "m4 peak/s", "m2 peak/s", "both at", "m4 us/req", "m2 us/req", "m2 ÷ m4, CPU", "", "zc sends",
           "copied"]


def row(result):
    ratio = result["load"]["ratios"]["server_cpu"]
    verdict = {"A is better": "zero copy better", "B is better": "copying better"}.get(ratio["verdict"],
                                                                                     ratio["verdict"])
    counters = result["counters"][0]
    interval = stats.Interval(ratio["low"], ratio["median"], ratio["high"], 2 * len(result["load"]["blocks"]))
    return [result["size"], *(table.number(peak) for peak in result["peaks"]), table.number(result["rate"]),
            table.figure(typical(result, (0, 3))), table.figure(typical(result, (1, 2))), table.interval(interval),
            verdict, table.number(counters.get("zc_sends")), table.number(counters.get("zc_copied"))]


def report(data):
    return "\n".join(["==== TCP on loopback: m4_zero_copy --zc-threshold 0 against m2_file_server, files in the cache", "",
                      *table.columns([COLUMNS, *(row(result) for result in data["sizes"])])])


def parse(words):
    parser = argparse.ArgumentParser(prog="zero_copy.py", allow_abbrev=False,
                                     description=__doc__.partition("\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default="build", help="where the programs are (%(default)s)")
    parser.add_argument("--results", type=pathlib.Path, default="build/bench-zero-copy",
                        help="for servers.json (%(default)s)")
    parser.add_argument("--connections", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--blocks", type=int, default=LEAST_BLOCKS, help="of A B B A (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.6, help="of each run (%(default)s)")
    settings = parser.parse_args(words)
    if settings.connections < 1 or settings.blocks < LEAST_BLOCKS or settings.seconds <= 0:
        parser.error(f"--connections and --seconds are more than 0, --blocks at least {LEAST_BLOCKS}")
    settings.warmup = round(min(1, settings.seconds / 5), 3)
    settings.server_cpu, settings.load_cpu = machine.measuring_cpus()
    return settings


def main(words):
    settings = parse(words)

    def interrupt(*_):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, interrupt)  # or the servers would be left running
    record = Record(settings.results / "servers.json", {"machine": machine.facts(), "sizes": []})
    try:
        with tempfile.TemporaryDirectory(prefix="zero-copy-") as name:
            folder = pathlib.Path(name)
            make_files(settings, folder)
            for size in SIZES:
                record.data["sizes"].append(measure_size(settings, folder, size))
                record.save()
        print(report(record.data))
    except ServerFailed as error:
        print(f"zero_copy: {error}", file=sys.stderr)
        return NO_IO_URING if error.status == NO_IO_URING else 1
    except (OSError, load.LoadFailed, subprocess.CalledProcessError) as error:
        print(f"zero_copy: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
