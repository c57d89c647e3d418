#!/usr/bin/env -S python3 -B
"""make compare, make compare-full: every measurement of this project, one after another, and one report.

    make compare                        a fixed selection: seven minutes
    make compare-full                   everything; two hours, and can be interrupted: the next time it goes on
    make compare SECTION='echo mixed'   only these; what was measured before stays in the report
    bench/compare.py --report-only      the report of what was measured before, written again

The measuring programs are those that can be run by themselves (make bench-file and so on). Each runs as a process of
its own, below build/report/raw/SECTION, and what it says of its progress becomes one line for all of them. After each
the report is written anew:

    build/report/report.md, index.html    the same in two forms; the page needs no network
    build/report/tables.txt               what the measuring programs printed, to which report.md refers
    build/report/results.json             every comparison with what it was computed from, and the list of the raw files
    build/report/*.svg                    the pictures, where there is matplotlib
    build/report/raw/                     what the measuring programs wrote: every run, with its commands

A section whose program is missing, or fails, is a row that says why. Ctrl-C or SIGTERM ends the program that runs, and
the report has what there is. Exit code: 0; 1, something failed; 2, usage; 130, interrupted.
"""

import argparse
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone

import compare_report
import compare_sections
from compare_findings import Ceilings, failure
from measure import machine, table
from measure.servers import how_it_ended, last_words

HERE = pathlib.Path(__file__).resolve().parent
PYTHONS = (sys.executable, "/usr/bin/python3")  # Debian's has Debian's matplotlib, whatever stands first in PATH
STOP_SECONDS = 20
TOO_LONG = 10  # times what it should take, and five minutes
NO_IO_URING = 3
PROGRESS = re.compile(r"\[(\d+)/(\d+)\] (.*?)  ?\(")
MEASURED, KEPT, FAILED, MISSING, INTERRUPTED, WAITING = (
    "measured", "kept", "failed", "missing", "interrupted", "not reached")


# ---- One line ----------------------------------------------------------------------------------------------------


class Line:
    """What runs, and how long is left of all: written over on a terminal, elsewhere when it changes."""

    def __init__(self, seconds, stream=sys.stderr):
        self.planned = dict(seconds)  # of each section that is still to be measured
        self.spent_planned = self.spent = 0.0
        self.number, self.count = 0, len(self.planned)
        self.stream, self.terminal = stream, stream.isatty()
        self.shown = None

    def begin(self, name, title):
        self.name, self.title, self.share = name, title, 0.0
        self.number += 1
        self.began = time.monotonic()
        self.show("")

    def end(self):
        """What it took instead of what was planned is what is thought of the others from now on."""
        self.spent += time.monotonic() - self.began
        self.spent_planned += self.planned.pop(self.name)

    def left(self):
        here, passed = self.planned[self.name], time.monotonic() - self.began
        rest = sum(self.planned.values()) - here
        # A minute of planned time counts as known, so that the first section does not decide alone.
        pace = (self.spent + 60) / (self.spent_planned + 60)
        of_this = here * (1 - self.share) * pace if self.share else max(0, here * pace - passed)
        return of_this + rest * pace

    def heard(self, text):
        """A line of the measuring program's stderr. Whether it was about progress."""
        found = PROGRESS.match(text)
        if not found:
            return False
        self.share = (int(found[1]) - 1) / max(1, int(found[2]))
        self.show(found[3])
        return True

    def show(self, what):
        words = f"[{self.number}/{self.count}] {self.title}{': ' + what if what else ''}"
        text = f"{words}  ({table.duration(self.left())} left in all)"
        if self.terminal:
            width = os.get_terminal_size(self.stream.fileno()).columns or 80
            print(f"\r\x1b[K{text[:width - 1]}", end="", file=self.stream, flush=True)
        elif words != self.shown:
            print(text, file=self.stream, flush=True)
        self.shown = words

    def clear(self):
        if self.terminal:
            print("\r\x1b[K", end="", file=self.stream, flush=True)


# ---- One section -------------------------------------------------------------------------------------------------


def run_command(command, folder, seconds, line):
    """Runs it to its end. (exit status, the end of what it said on stderr besides its progress); an interruption ends
    it politely, so that it writes what it has, and goes on."""
    said = []
    with open(folder / command.output, "wb") as output:
        try:
            process = subprocess.Popen(command.words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE,
                                       start_new_session=True)
        except OSError as error:
            return None, f"{error.filename}: {error.strerror}"
        try:
            listen(process, time.monotonic() + TOO_LONG * seconds + 300, line, said)
            status = process.wait()
        except BaseException:
            end(process)
            raise
        finally:
            process.stderr.close()
    return status, last_words("\n".join(said))


def listen(process, deadline, line, said):
    """Until its stderr ends."""
    rest = b""
    while True:
        if not select.select([process.stderr], [], [], 1)[0]:
            if time.monotonic() > deadline:
                said.append("it took more than ten times as long as it should")
                end(process)
                return
            line.show(line.shown.partition(": ")[2] if line.shown else "")
            continue
        part = os.read(process.stderr.fileno(), 4096)
        if not part:
            return
        *lines, rest = re.split(rb"[\r\n]+", rest + part)
        for text in (one.decode(errors="replace") for one in lines):
            if text.strip() and not line.heard(text.replace("\x1b[K", "")):
                said.append(text)
        del said[:-20]


def end(process):
    """SIGTERM to all of its group, which measuring programs take as a wish to hear what there is so far. Whoever cannot
    wait for that, and interrupts once more, does not leave it running."""
    for number, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=patience)
            return
        except ProcessLookupError:
            process.wait()
            return
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass


def run_section(section, settings, folder, line):
    """{status, why} of one section that is to be measured."""
    words = []
    for command in section.commands(settings, folder):
        if not command.program.exists():
            words.append((MISSING, f"{command.program} is not there"))
            continue
        status, said = run_command(command, folder, section.seconds(settings), line)
        if status == NO_IO_URING:
            words.append((MISSING, f"{command.program.name}: no io_uring here: {said}"))
        elif status is None:
            words.append((MISSING, said))
        elif status not in (0, command.judged_worse):
            why = f"{command.program.name} ended with {how_it_ended(status)}"
            words.append((FAILED, f"{why}: {said}" if said else why))
    worst = next((kind for kind in (FAILED, MISSING) if any(found == kind for found, _ in words)), MEASURED)
    return {"status": worst, "why": "; ".join(why for _, why in words)}


def state_path(folder):
    return folder / "section.json"


def state_of(folder):
    try:
        return json.loads(state_path(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_text(path, text):
    """As a whole or not at all."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def write_json(path, data):
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


# ---- All of them -------------------------------------------------------------------------------------------------


class Comparison:
    def __init__(self, options):
        self.report = options.report
        self.settings = compare_sections.Settings(options.build, options.data, options.full)
        self.resume = options.resume
        self.sections = [section for section in compare_sections.SECTIONS
                         if not options.section or section.name in options.section]
        self.results = {}  # of each section: what its adapter said, by its folder's age
        self.started = now()

    def folder(self, section):
        return self.report / "raw" / section.name

    def is_kept(self, section):
        """Whether it need not be measured again: complete, by these programs, in this way, on this machine."""
        state = state_of(self.folder(section))
        return bool(self.resume and state and state["status"] == MEASURED
                    and state["signature"] == self.signature(section))

    def signature(self, section):
        return compare_sections.signature(section, self.settings, self.folder(section))

    def measure(self):
        """All sections that are to be measured. False after an interruption."""
        wanted = [section for section in self.sections if not self.is_kept(section)]
        for section in self.sections:
            if section not in wanted:
                self.change_state(section, kept=True)
        line = Line({section.name: section.seconds(self.settings) for section in wanted})
        print(f"{len(wanted)} sections, about {table.duration(sum(line.planned.values()))}; the report: "
              f"{self.report / 'index.html'}", flush=True)
        for section in wanted:
            line.begin(section.name, section.title)
            try:
                self.measure_one(section, line)
            except KeyboardInterrupt:
                self.change_state(section, status=INTERRUPTED, why="interrupted; what it has measured is below")
                return False
            finally:
                line.clear()
            line.end()
            self.write()
        return True

    def measure_one(self, section, line):
        folder, signature = self.folder(section), self.signature(section)
        state = state_of(folder)
        if not (self.resume and state and state.get("signature") == signature):
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(state_path(folder), {
            "status": INTERRUPTED, "why": "it was not ended", "signature": signature, "started": now(), "kept": False,
            "machine": self.machine(), "full": self.settings.full,
            "commands": [command.text for command in section.commands(self.settings, folder)]})
        began = time.monotonic()
        found = run_section(section, self.settings, folder, line)
        self.change_state(section, **found, seconds=round(time.monotonic() - began, 1), ended=now())

    def change_state(self, section, **more):
        folder = self.folder(section)
        write_json(state_path(folder), (state_of(folder) or {}) | more)
        self.results.pop(section.name, None)

    def machine(self):
        return machine.facts(self.settings.data if self.settings.data.exists() else None) | {
            "hypervisor": machine.hypervisor(), "limits": machine.limits(), "pins": machine.pins()}

    # ---- The report

    def read_all(self):
        """Everything that lies below raw/, measured now or before."""
        ceilings = Ceilings(self.raw_ceilings())
        data = {"findings": [], "failures": [], "absent": [], "goals": [], "noise": [], "notes": [], "texts": [],
                "plots": {}}
        sections = []
        for section in compare_sections.SECTIONS:
            folder, state = self.folder(section), state_of(self.folder(section))
            if state is None:
                sections.append({"name": section.name, "title": section.title, "status": WAITING,
                                 "why": "it was not asked for" if section not in self.sections else "", "raw": []})
                continue
            if section.name not in self.results:
                self.results[section.name] = compare_sections.read(section, folder, ceilings)
            found, why = self.results[section.name]
            if why and state["status"] == MEASURED:
                state |= {"status": FAILED, "why": why}
            sections.append({"name": section.name, "title": section.title} | state | {"raw": sorted(
                str(path.relative_to(self.report)) for path in folder.rglob("*") if path.is_file())})
            if state["status"] in (FAILED, MISSING):
                data["failures"].append(failure(section.name, "", section.title, state["why"]))
            add(data, section, found)
        return {"sections": sections} | data

    def raw_ceilings(self):
        try:
            return json.loads((self.report / "raw" / "ceilings" / "results.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write(self, with_plots=False):
        """results.json, the pictures, the two reports; each file is whole at every moment."""
        self.report.mkdir(parents=True, exist_ok=True)
        data = {"date": now(), "started": self.started} | self.read_all()
        # What it is a report of, whatever it is asked for now.
        measured = [one for one in data["sections"] if "machine" in one]
        data["full"] = all(one["full"] for one in measured) if measured else self.settings.full
        # Of the one that was measured last; a kept one may be older, and says so in its row.
        data["machine"] = max(measured, key=lambda one: one["started"])["machine"] if measured else self.machine()
        data["complete"] = all(one["status"] == MEASURED for one in data["sections"])
        # The tables are in raw/, as the measuring programs printed them.
        write_json(self.report / "results.json", {key: value for key, value in data.items() if key != "texts"})
        pictures = draw(self.report) if with_plots else pictures_so_far(self.report)
        write_text(self.report / "tables.txt", compare_report.tables_text(data))
        write_text(self.report / "report.md", compare_report.markdown(data, pictures))
        write_text(self.report / "index.html", compare_report.html(data, pictures))
        return data


def add(data, section, found):
    for key in ("findings", "failures", "absent", "goals", "noise"):
        data[key] += found[key]
    data["notes"] += [f"{section.title}: {note}" for note in found["notes"]]
    data["texts"] += [[section.name, title, text] for title, text in found["texts"]]
    for name, drawn in found["plots"].items():
        if isinstance(drawn, list):
            data["plots"].setdefault(name, []).extend(drawn)
        else:
            data["plots"][name] = drawn


def now():
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def draw(report):
    """The pictures, by the first Python here that has matplotlib, in a process of its own: {svg: {…}, why: None or why
    there are none}."""
    why = "matplotlib is not installed (Debian: python3-matplotlib)"
    with tempfile.TemporaryDirectory(prefix="pictures-", dir=report) as folder:
        for python in dict.fromkeys(PYTHONS):
            if not pathlib.Path(python).exists():
                continue
            done = subprocess.run([python, "-B", HERE / "compare_plots.py", report / "results.json", folder],
                                  capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if done.returncode != compare_report.NO_MATPLOTLIB:
                why = f"drawing failed: {last_words(done.stderr)}" if done.returncode else None
                break
        for path in report.glob("*.svg"):
            path.unlink()
        if why is None:
            for path in pathlib.Path(folder).glob("*.svg"):
                path.rename(report / path.name)
    return pictures_so_far(report) if why is None else {"svg": {}, "why": why}


def pictures_so_far(report):
    svg = {path.stem: path.read_text(encoding="utf-8") for path in sorted(report.glob("*.svg"))}
    return {"svg": svg, "why": None if svg else "they are drawn at the end"}


def parse(words):
    parser = argparse.ArgumentParser(prog="compare.py", allow_abbrev=False, description=__doc__.partition("\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"),
                        help="where the programs are (%(default)s)")
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("build/bench-data"),
                        help="where the files are, on the disk that is measured (%(default)s)")
    parser.add_argument("--report", type=pathlib.Path, default=pathlib.Path("build/report"),
                        help="where the report goes (%(default)s)")
    parser.add_argument("--full", action="store_true", help="everything")
    parser.add_argument("--resume", action="store_true", help="what was measured whole before is not measured again")
    parser.add_argument("--section", action="append", choices=list(compare_sections.BY_NAME), help="only this one")
    parser.add_argument("--report-only", action="store_true", help="measure nothing")
    parser.add_argument("--list", action="store_true", help="name the sections and how long they take, and end")
    return parser.parse_args(words)


def say_in_short(data, report):
    for row in compare_report.summary_rows(data):
        print(row)
    print(f"\nthe report: {report / 'index.html'} and {report / 'report.md'}; raw data: {report / 'raw'}")


def main(words):
    options = parse(words)
    comparison = Comparison(options)
    if options.list:
        print("\n".join(table.sentences([[section.name, table.duration(section.seconds(comparison.settings)),
                                          section.title] for section in comparison.sections])))
        return 0

    def interrupt(*_):
        raise KeyboardInterrupt
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        whole = True if options.report_only else comparison.measure()
        data = comparison.write(with_plots=True)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    say_in_short(data, options.report)
    if not whole:
        return 130
    return 1 if data["failures"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
