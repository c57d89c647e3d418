"""The raw data on disk, a valid file at every moment; and the line that says what runs and how long is left."""

import json
import os
import pathlib
import sys
import time

from measure import table


SAVING_IS_RARE = 50  # times as long as writing took passes before it is due again


class Record:
    """`data` becomes `path`: as a whole or not at all, by rename, so that an interrupted run leaves no half of it."""

    def __init__(self, path, data):
        self.path = pathlib.Path(path)
        self.data = data
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._next_save = 0.0

    def save(self):
        began = time.monotonic()
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(self.data, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(beside, self.path)
        self._next_save = time.monotonic() + SAVING_IS_RARE * (time.monotonic() - began)

    def save_if_due(self):
        """After each pass and each cell: thousands of runs take a second to write, and that is not the time that
        measuring is to take. Who ends the measuring saves what there is."""
        if time.monotonic() >= self._next_save:
            self.save()


def measured_whole(path, plan):
    """The cells of an earlier run that need not be measured again: measured whole, in the way that `plan` says, by the
    same programs, on this kernel and CPU. What cannot be read is nothing."""
    def how(data):
        return [data["settings"], data["programs"], data["pins"],
                *(data["machine"][key] for key in ("kernel", "cpu", "cpus", "mitigations"))]
    try:
        with open(path, encoding="utf-8") as file:
            earlier = json.load(file)
        same = how(earlier) == json.loads(json.dumps(how(plan)))
        return [cell for cell in earlier["cells"] if same and cell.get("whole") and not any(
            part["failures"] for part in (cell, cell.get("equal_rate"), *cell.get("at_rates", ())) if part)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


class Progress:
    """On a terminal one line that is written over; elsewhere a line for each cell."""

    def __init__(self, runs, guess_seconds, stream=sys.stderr):
        self.runs, self.done = runs, 0
        self.guess = guess_seconds  # for one run, until there is something to learn from
        self.started = time.monotonic()
        self.stream = stream
        self.terminal = stream.isatty()
        self.cell = None

    def left(self):
        spent = time.monotonic() - self.started
        # The guess counts as five runs, so that the first run does not decide alone.
        each = (spent + 5 * self.guess) / (self.done + 5)
        return (self.runs - self.done) * each

    def show(self, cell, what):
        text = f"[{self.done + 1}/{self.runs}] {cell}  {what}  ({table.duration(self.left())} left)"
        if self.terminal:
            width = os.get_terminal_size(self.stream.fileno()).columns or 80  # 0: the terminal does not know
            print(f"\r\x1b[K{text[:width - 1]}", end="", file=self.stream, flush=True)
        elif cell != self.cell:
            print(f"[{self.done + 1}/{self.runs}] {cell}  ({table.duration(self.left())} left)", file=self.stream,
                  flush=True)
        self.cell = cell

    def step(self, runs=1):
        self.done += runs

    def clear(self):
        if self.terminal:
            print("\r\x1b[K", end="", file=self.stream, flush=True)
