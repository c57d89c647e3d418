"""The sections of make compare: which programs measure each of them, and who reads what they wrote.

A section is one measuring program (or two) that can be run by itself, with its results in a folder of its own. Its raw
data is read by a pure function of compare_servers.py or compare_programs.py.
"""

import json
import os
import pathlib
import shlex
import sys
from dataclasses import dataclass
from typing import Callable

import compare_programs
import compare_servers
import echo_servers
import file_servers
from compare_findings import sections_result
from measure import load, machine

BENCH = pathlib.Path(__file__).resolve().parent


class NothingThere(Exception):
    """A program that was to write results has written none."""


@dataclass(frozen=True)
class Settings:
    build: pathlib.Path
    data: pathlib.Path  # the folder of the files, on the disk that is measured
    full: bool


@dataclass(frozen=True)
class Command:
    words: tuple
    output: str  # the file for its stdout
    judged_worse: int = 0  # the exit code that means: measured, and not to our advantage

    @property
    def program(self):
        """What must be there: a script's interpreter is."""
        return pathlib.Path(self.words[2] if self.words[0] == sys.executable else self.words[0])

    @property
    def text(self):
        """As a reader types it."""
        first = "python3" if self.words[0] == sys.executable else self.words[0]
        return shlex.join([first, *self.words[1:]])


@dataclass(frozen=True)
class Section:
    name: str
    title: str
    commands: Callable  # of settings and the folder: in this order
    seconds: Callable  # of settings: about
    read: Callable  # of the folder and the ceilings: what compare_findings.sections_result makes
    programs: tuple  # below build/, that are measured: when they change, earlier results are not theirs


def script(name, *words):
    path = os.path.relpath(BENCH / name)  # as short as it can be typed
    return Command((sys.executable, "-B", path, *map(str, words)), pathlib.Path(name).stem + ".txt")


def program(path, *words, **more):
    return Command((str(path), *map(str, words)), f"{path.name}.txt", **more)


def load_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NothingThere(f"there is no {path.name}") from None
    except ValueError as error:
        raise NothingThere(f"{path.name} is not JSON: {error}") from None


def output_of(folder, name):
    path = folder / f"{name}.txt"
    return path.read_text(encoding="utf-8", errors="replace").strip("\n") if path.exists() else ""


def printed(folder, title, name):
    """A program's own output as the section's table."""
    text = output_of(folder, name)
    return [[title, text]] if text else []


def one_file(adapter):
    return lambda folder, ceilings: adapter(load_json(folder / "results.json"), ceilings)


# ---- What is run -------------------------------------------------------------------------------------------------


def common(settings, folder, with_data=False):
    return ["--build", settings.build, "--results", folder, *(["--data", settings.data] if with_data else [])]


def blocks_and_seconds(settings, seconds=load.RUN_SECONDS):
    return ["--blocks", 4 if settings.full else 3, "--seconds", seconds]


def brief_or_full(settings):
    return ["--full", "--resume"] if settings.full else ["--brief"]


def run_ceilings(settings, folder):
    return [script("ceilings.py", *common(settings, folder), *([] if settings.full else ["--quick"]))]


def run_files(settings, folder):
    return [script("file_servers.py", *common(settings, folder, True), *blocks_and_seconds(settings),
                   *brief_or_full(settings))]


def run_echo(settings, folder):
    return [script("echo_servers.py", *common(settings, folder), *blocks_and_seconds(settings),
                   *brief_or_full(settings))]


def run_mixed(settings, folder):
    return [script("mixed.py", *common(settings, folder, True),
                   *(["--full", "--resume"] if settings.full else ["--blocks", 3, "--seconds", 0.5]))]


def run_ladder(settings, folder):
    few = [] if settings.full else ["--transport", "unix", "--no-equal-rate"]
    return [script("ladder.py", *common(settings, folder), *blocks_and_seconds(settings), *few)]


def run_linked(settings, folder):
    return [script("linked.py", *common(settings, folder), *blocks_and_seconds(settings),
                   *([] if settings.full else ["--transport", "tcp"]))]


def run_ordering(settings, folder):
    settings.data.mkdir(parents=True, exist_ok=True)
    return [program(settings.build / "ordering", "--folder", settings.data, "--json", folder / "results.json",
                    "--blocks", 6 if settings.full else 3, "--milliseconds", 400 if settings.full else 200)]


def run_zero_copy(settings, folder):
    return [program(settings.build / "bench_zero_copy", "--json", folder / "results.json"),
            script("zero_copy.py", *common(settings, folder), *blocks_and_seconds(settings, 0.6 if settings.full else 0.3))]


def run_ring(settings, folder):
    return [program(settings.build / "nop_round_trips", folder / "nop", judged_worse=4),
            program(settings.build / "bench_instructions")]


def run_copy(settings, folder):
    return [script("file_copy.py", *common(settings, folder, True), "--size", "2G" if settings.full else "512M",
                   "--blocks", 4 if settings.full else 3)]


# ---- How long it takes -------------------------------------------------------------------------------------------


def seconds_of(module, run):
    """By the measuring program's own plan, of the words with which it is run."""
    def estimate(settings):
        planned = module.parse(list(run(settings, pathlib.Path("unused"))[0].words[3:]))
        cells, thinned = module.plan(planned)
        return module.describe_plan(planned, cells, thinned)["estimate_seconds"]
    return estimate


def about(quick, full):
    return lambda settings: full if settings.full else quick


# ---- Who reads it ------------------------------------------------------------------------------------------------


def read_zero_copy(folder, ceilings):
    """Two programs, two files; the second may be missing."""
    found = compare_programs.zero_copy(load_json(folder / "results.json"), ceilings)
    found["texts"] = printed(folder, "ZERO COPY: SEND and SEND_ZC", "bench_zero_copy") + \
        printed(folder, "ZERO COPY: two file servers", "zero_copy")
    try:
        servers = compare_programs.zero_copy_servers(load_json(folder / "servers.json"), ceilings)
        found["findings"] += servers["findings"]
    except NothingThere as why:
        found["notes"].append(f"the two file servers were not compared: {why}")
    return found


def read_ring(folder, ceilings):
    processes = [load_json(path) for path in sorted(folder.glob("nop/process_*.json"))]
    instructions = output_of(folder, "bench_instructions")
    if not processes and not instructions:
        raise NothingThere("neither times nor instructions were measured")
    return compare_programs.ring({
        "processes": processes, "instructions": instructions,
        "texts": printed(folder, "THE RING: CPU time of a NOP", "nop_round_trips") +
        printed(folder, "THE RING: instructions", "bench_instructions")}, ceilings)


def read_ordering(folder, ceilings):
    found = compare_programs.ordering(load_json(folder / "results.json"), ceilings)
    found["texts"] = printed(folder, "ORDERING: an fsync behind its writes, three ways", "ordering")
    return found


FILE_PROGRAMS = ("load", "epoll_file_server", "sync_file_server", "m2_file_server", "m4_zero_copy")
ECHO_PROGRAMS = ("load", "epoll_echo_server", "m3_echo_server")

# The ceilings first: the others are shown as shares of them.
SECTIONS = [
    Section("ceilings", "what nobody gets below", run_ceilings, about(26, 60), one_file(compare_programs.the_ceilings),
            ("ceilings", *ECHO_PROGRAMS, *FILE_PROGRAMS)),
    Section("files", "file servers", run_files, seconds_of(file_servers, run_files), one_file(compare_servers.files),
            FILE_PROGRAMS),
    Section("echo", "echo servers", run_echo, seconds_of(echo_servers, run_echo), one_file(compare_servers.echo),
            ECHO_PROGRAMS),
    Section("mixed", "echoes while cold files are read", run_mixed, about(50, 210),
            one_file(compare_servers.mixed_loads), FILE_PROGRAMS),
    Section("ladder", "one idea of io_uring more at each rung", run_ladder, about(42, 120),
            one_file(compare_servers.the_ladder), (*ECHO_PROGRAMS, "m3_echo_server_sqpoll")),
    Section("linked", "linked chains against steps driven by completions", run_linked, about(20, 40),
            one_file(compare_programs.linked_chains), ("load", "m4_linked")),
    Section("ordering", "an fsync behind its writes, three ways", run_ordering, about(25, 100), read_ordering,
            ("ordering",)),
    Section("zero-copy", "SEND_ZC against SEND", run_zero_copy, about(65, 100), read_zero_copy,
            ("bench_zero_copy", "load", "m4_zero_copy", "m2_file_server")),
    Section("ring", "the ring layer against liburing", run_ring, about(30, 30), read_ring,
            ("nop_round_trips", "bench_instructions")),
    Section("copy", "a cold file copied", run_copy, about(40, 360), one_file(compare_programs.file_copies),
            ("m1_ring_basics",)),
]
BY_NAME = {section.name: section for section in SECTIONS}


def read(section, folder, ceilings):
    """What the section says, or a failure: a report must not end because one program wrote something unexpected."""
    try:
        return section.read(folder, ceilings), None
    except NothingThere as why:
        return sections_result(), str(why)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
        return sections_result(), f"its results could not be read: {type(error).__name__}: {error}"


def signature(section, settings, folder):
    """What must be the same for earlier results to be still those of this section: programs, settings, machine."""
    commands = section.commands(settings, folder)
    scripts = sorted(BENCH.glob("*.py")) + sorted(BENCH.glob("measure/*.py"))
    measuring = [path for path in scripts if not path.name.startswith("compare")]
    return {
        "commands": [command.text for command in commands],
        "programs": machine.digest([settings.build / name for name in section.programs]),
        "scripts": machine.digest(measuring),
        "machine": machine.identity(),
    }
