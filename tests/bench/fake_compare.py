"""bench/compare.py with other sections: those that FAKE_SECTIONS names, each a fake_section.py with that behaviour.
Besides:

    missing     a program that is not there
    echo        the real bench/echo_servers.py with one cell, on the programs of --build
    ceilings    as `good`: compare.py looks for ceilings by that name
"""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "bench"))

import compare
import compare_sections
import compare_servers
from compare_findings import finding, sections_result
from compare_sections import Command, Section, load_json, one_file, printed, script
from measure import stats


def run_fake(behaviour):
    def commands(_settings, folder):
        return [Command((sys.executable, "-B", str(HERE / "fake_section.py"), behaviour, str(folder)), "fake.txt",
                        judged_worse=4)]
    return commands


def read_fake(name):
    def read(folder, _ceilings):
        data = load_json(folder / "results.json")
        ratio = stats.bootstrap(list(data["ratios"]))
        return sections_result(
            [finding(name, f"{name}/cell", "a workload", "io_uring", "epoll", "CPU time", ratio, primary=True,
                     why="So.")],
            texts=printed(folder, "A TABLE", "fake"))
    return read


def section_named(name):
    if name == "missing":
        return Section(name, "no program", lambda *_: [Command(("/nowhere/at_all",), "fake.txt")], lambda _: 1,
                       read_fake(name), ())
    if name == "echo":
        return Section(name, "echo servers", lambda settings, folder: [script(
            "echo_servers.py", "--build", settings.build, "--results", folder, "--cell", "unix/64/16", "--blocks", 1,
            "--seconds", "0.01")], lambda _: 5, one_file(compare_servers.echo), ("epoll_echo_server", "m3_echo_server"))
    return Section(name, f"the {name} one", run_fake(name), lambda _: 1, read_fake(name), ("program",))


compare_sections.SECTIONS[:] = [section_named(name) for name in os.environ["FAKE_SECTIONS"].split(",")]
compare_sections.BY_NAME.clear()
compare_sections.BY_NAME.update({section.name: section for section in compare_sections.SECTIONS})
compare.STOP_SECONDS = 3
sys.exit(compare.main(sys.argv[1:]))
