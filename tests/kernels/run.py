#!/usr/bin/env python3
"""The tests and the programs on other kernels: `make test-kernels`.

usage: run.py [--kernels '6.1 7.3'] [--suites 'tests programs'] [--programs PATTERN]

For each kernel: fetch.sh brings it, boot.sh starts a guest for each suite, and what the guest prints is read here.
The output is one table, kernel by suite, what failed below it, and `N passed, N failed, N skipped` as the last line.
build/kernels/results/KERNEL.json keeps the outcome of each test; `make facts` reads those.

A kernel that cannot be fetched is a skip with its reason, or a failure with REQUIRE_KERNELS=1 in the environment. A
guest that ends before its last line, for whatever reason, is a failure.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = pathlib.Path("build/kernels")
DEFAULT = "5.10 6.1 6.12 6.18 7.3 6.1-arm64 7.3-arm64"

Result = collections.namedtuple("Result", "outcome title words")
BAD = ("failed", "hung", "died")
OUTCOMES = BAD + ("holds", "differs", "skipped", "changed")

# What a guest does for each suite: boot.sh's arguments, and words for the kernel's command line. `unit` runs where the
# processor is another one; what those tests check does not depend on the kernel.
SUITES = {
    "tests": (["tests", "run_tests"], "SOURCE=*tests/kernel/*"),
    "unit": (["tests", "run_tests"], "SOURCE=*tests/unit/*,*tests/mock/*"),
    "programs": (["programs"], ""),
}
# The names of `programs` begin with what they belong to; each of these is a column of its own, the rest are "others".
GROUPS = ("m1", "m2", "m3", "m4", "conformance")
COLUMNS = ("tests/kernel", "unit, mock", *GROUPS, "others")


def kernels_of(table):
    """The rows of kernels.tsv: {name: machine}."""
    rows = (line.split("\t") for line in table.read_text().splitlines() if line and not line.startswith("#"))
    return {row[0]: row[1] for row in rows}


def read_console(lines):
    """([Result], whether the guest came to its end, the `uname -r` it told)."""
    results, ended, release = [], False, ""
    for line in lines:
        if line.startswith("guest: ") and not release:
            release = line.split()[1]
        if not line.startswith("result: "):
            continue
        words = line[len("result: "):].rstrip("\n").split("\t")
        if words == ["end"]:
            ended = True
        elif words[0] in OUTCOMES and len(words) >= 2:
            results.append(Result(words[0], words[1], words[2] if len(words) > 2 else ""))
    return results, ended, release


def boot(kernel, suite, pattern, log):
    """Runs one suite in a guest; its console goes to `log`. Returns what read_console returns."""
    arguments, append = SUITES[suite]
    if suite == "programs" and pattern:
        arguments = arguments + [pattern]
    environment = dict(os.environ, GUEST_APPEND=append)
    environment.setdefault("GUEST_SECONDS", "1800")
    with open(log, "w", encoding="utf-8", errors="replace") as console:
        subprocess.run([HERE / "boot.sh", kernel, *arguments], stdout=console, stderr=subprocess.STDOUT,
                       stdin=subprocess.DEVNULL, env=environment, check=False)
    with open(log, encoding="utf-8", errors="replace") as console:
        return read_console(console)


def column_of(suite, title):
    """The column of the table under which a result counts."""
    if suite != "programs":
        return {"tests": "tests/kernel", "unit": "unit, mock"}[suite]
    first = title.split()[0]
    return first if first in GROUPS else "others"


def cell(results):
    """'12', '12, 3 differ, 1 skipped' or 'FAILED 2 of 14'."""
    if not results:
        return ""
    count = collections.Counter(result.outcome for result in results)
    bad = sum(count[outcome] for outcome in BAD)
    if bad:
        return f"FAILED {bad} of {len(results)}"
    words = [str(count["holds"] + count["differs"])]
    words += [f"{count[outcome]} {word}" for outcome, word in
              (("differs", "differ"), ("changed", "changed"), ("skipped", "skipped")) if count[outcome]]
    return ", ".join(words)


def table(rows, columns):
    """Lines of a table, each column as wide as it must be."""
    lines = [["kernel", *columns]] + rows
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines]


def fetch(kernel):
    """'' or the reason why this kernel cannot be had."""
    fetched = subprocess.run([HERE / "fetch.sh", kernel], capture_output=True, text=True, check=False)
    if fetched.returncode == 0:
        return ""
    return (fetched.stderr.strip().splitlines() or [f"exit status {fetched.returncode}"])[-1]


def build(machine):
    """Builds and packs the initramfs of one machine. The build's output is shown; True if it succeeded."""
    compiler = ["CXX=aarch64-linux-gnu-g++"] if machine == "arm64" else []
    return subprocess.run(["make", *compiler, "guest-programs"], check=False).returncode == 0


def main():
    parser = argparse.ArgumentParser(description="The tests and the programs on other kernels.")
    parser.add_argument("--kernels", default=os.environ.get("KERNELS") or DEFAULT)
    parser.add_argument("--suites", default="tests programs", help="of: tests programs (unit is added on arm64)")
    parser.add_argument("--programs", default="", help="a pattern: only programs whose name fits")
    options = parser.parse_args()

    known = kernels_of(HERE / "kernels.tsv")
    unknown = [kernel for kernel in options.kernels.split() if kernel not in known]
    if unknown:
        print(f"run.py: no kernel {' '.join(unknown)}; there are: {' '.join(known)}", file=sys.stderr)
        return 2
    required = os.environ.get("REQUIRE_KERNELS", "0") not in ("", "0")

    (ROOT / "results").mkdir(parents=True, exist_ok=True)
    built, rows, complaints, notes = {}, [], [], []
    totals = collections.Counter()
    cells = {}
    for kernel in options.kernels.split():
        started = time.monotonic()
        machine = known[kernel]
        reason = fetch(kernel)
        if reason:
            print(f"{kernel}: {reason}", flush=True)
            totals["failed" if required else "skipped"] += 1
            (complaints if required else notes).append(f"{kernel}: not fetched: {reason}")
            cells[kernel] = {}
            rows.append(kernel)
            continue
        if machine not in built:
            built[machine] = build(machine)
        if not built[machine]:
            totals["failed"] += 1
            complaints.append(f"{kernel}: the guests' programs for {machine} do not build")
            cells[kernel] = {}
            rows.append(kernel)
            continue

        found, release, kept = collections.defaultdict(list), "", {}
        suites = options.suites.split()
        if machine == "arm64" and "tests" in suites:
            suites = ["unit", *suites]
        for suite in suites:
            log = ROOT / "results" / f"{kernel}.{suite}.log"
            results, ended, told = boot(kernel, suite, options.programs, log)
            release = told or release
            if not ended:
                results.append(Result("died", f"the guest of suite '{suite}' did not come to its end",
                                      f"its console: {log}"))
            for result in results:
                found[column_of(suite, result.title)].append(result)
                if result.outcome in BAD:
                    totals["failed"] += 1
                    complaints.append(f"{kernel}: {result.outcome}: {result.title}: {result.words} ({log})")
                elif result.outcome in ("skipped", "changed"):
                    totals["skipped"] += 1
                    if result.outcome == "changed":
                        notes.append(f"{kernel}: changed: {result.title}")
                else:
                    totals["passed"] += 1
                if suite == "tests":
                    kept[result.title] = [result.outcome, result.words]
        package = (ROOT / kernel / "release").read_text().strip()
        if kept:
            (ROOT / "results" / f"{kernel}.json").write_text(json.dumps(
                {"kernel": kernel, "release": package, "uname": release, "machine": machine, "tests": kept},
                indent=1, ensure_ascii=False, sort_keys=True) + "\n")
        label = f"{kernel} ({package})"
        cells[label] = {column: cell(results) for column, results in found.items()}
        rows.append(label)
        print(f"{label}: {time.monotonic() - started:.0f} s", flush=True)

    columns = [column for column in COLUMNS if any(column in row for row in cells.values())]
    print()
    for line in table([[row, *(cells[row].get(column, "") for column in columns)] for row in rows], columns):
        print(line)
    print()
    for note in notes:
        print(note)
    for complaint in complaints:
        print(complaint)
    (ROOT / "results.json").write_text(json.dumps({"kernels": cells, "failures": complaints}, indent=1) + "\n")
    print(f"{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped")
    return 0 if totals["failed"] == 0 and totals["passed"] + totals["skipped"] > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
