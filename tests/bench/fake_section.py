"""A measuring program that only pretends: fake_section.py BEHAVIOUR FOLDER. What it does is said by its name:

    good        writes results.json, with progress on stderr
    slow        the same, and then measures on until it is told to stop, when it writes what it has
    worse       the same, and ends with 4: measured, and io_uring is not the better one
    bad         says why on stderr and ends with 1
    none        ends with 3: no io_uring here
    garbage     writes something that is no JSON
    other       writes JSON that is not what the reader expects
    deaf        does not end when it is told to stop
"""

import json
import os
import pathlib
import signal
import sys
import time


def write(folder, median):
    data = {"ratios": [median] * 6}
    (folder / "results.json").write_text(json.dumps(data))


def measure_on(folder):
    def stop(*_):
        write(folder, 1.25)
        os._exit(130)
    signal.signal(signal.SIGTERM, stop)
    (folder / "measuring").write_text("")
    while True:
        time.sleep(60)


def main():
    behaviour, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    with open(os.environ["FAKE_RAN"], "a", encoding="utf-8") as file:
        file.write(behaviour + "\n")
    print(f"[1/2] a cell  (1 s left)\n[2/2] another cell  (0 s left)", file=sys.stderr, flush=True)
    print("a table")
    if behaviour == "bad":
        sys.exit("the disk is full")
    if behaviour == "none":
        sys.exit(3)
    if behaviour == "slow":
        measure_on(folder)
    if behaviour == "garbage":
        (folder / "results.json").write_text("{")
    elif behaviour == "other":
        (folder / "results.json").write_text('{"ratios": null}')
    else:
        write(folder, 1.5)
    if behaviour == "worse":
        sys.exit(4)


main()
