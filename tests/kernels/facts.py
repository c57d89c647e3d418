#!/usr/bin/env python3
"""The kernel columns of docs/kernel-facts.md, from the results that are kept in tests/kernels/results.

usage: facts.py [--take]      --take: first keep what `make test-kernels` left in build/kernels/results

Each row of the document states a fact and ends with the title of its test. The columns between "Since" and "Test" are
written here and nowhere else: one for each kernel whose results are kept, with

  ✓        the test found what the row says
  words    the kernel does this instead
  –        it lacks the thing, and the test was skipped
  ?        the test was not run there
"""

import argparse
import json
import pathlib
import re
import sys

TREE = pathlib.Path(__file__).resolve().parents[2]
BOOK = TREE / "docs/kernel-facts.md"
KEPT = TREE / "tests/kernels/results"
NEW = TREE / "build/kernels/results"
BEGIN = "<!-- the kernels: make facts -->"
END = "<!-- end of the kernels -->"
UNTOLD = ("failed", "hung", "died")


def version_of(name):
    """Sorts 5.10 before 6.1, and a machine's name behind its plain kernel."""
    series, _, machine = name.partition("-")
    return [int(part) for part in series.split(".")], machine


def cells(row):
    """The cells of a table's row; None for any other line."""
    if not row.startswith("| ") or not row.rstrip().endswith("|"):
        return None
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip()[1:-1])]


def titles(book):
    """The titles of the tests in the book, in its order."""
    rows = (cells(line) for line in book.splitlines())
    return [row[-1] for row in rows if row and row[0] != "Fact"]


def load(folder):
    """{kernel: result file}, oldest kernel first."""
    results = (json.loads(path.read_text()) for path in folder.glob("*.json"))
    return dict(sorted(((result["kernel"], result) for result in results), key=lambda item: version_of(item[0])))


def take(kept, new, wanted):
    """Copies the outcomes of the facts from `new` to `kept`. Returns complaints: a fact must not have failed."""
    complaints = []
    for kernel, result in load(new).items():
        facts = {title: outcome for title, outcome in result["tests"].items() if title in wanted}
        complaints += [f"{kernel}: {outcome[0]}: {title}" for title, outcome in facts.items() if outcome[0] in UNTOLD]
        result["tests"] = facts
        kept.mkdir(exist_ok=True)
        (kept / f"{kernel}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    return complaints


def cell(result, title):
    """What one kernel's column says of one fact."""
    outcome, words = result["tests"].get(title, ("?", ""))
    return {"holds": "✓", "skipped": "–", "differs": words.replace("|", "\\|"), "changed": "changed"}.get(outcome, "?")


def rewrite(book, results):
    """The book with its kernel columns, and the list of kernels, made anew."""
    columns = [kernel for kernel in results if "-" not in kernel]
    lines = []
    inside = False
    for line in book.splitlines():
        if line == END:
            inside = False
        if inside:
            continue
        row = cells(line)
        if line.startswith("|---"):
            lines.append("|" + "---|" * (3 + len(columns)))
        elif row is None:
            lines.append(line)
        elif row[0] == "Fact":
            lines.append("| " + " | ".join([row[0], row[1], *columns, row[-1]]) + " |")
        else:
            lines.append("| " + " | ".join([row[0], row[1], *(cell(results[kernel], row[-1]) for kernel in columns),
                                            row[-1]]) + " |")
        if line == BEGIN:
            inside = True
            lines += summary(results)
    return "\n".join(lines) + "\n"


def summary(results):
    """Which kernels were run; and where another machine's kernel gave something else than the same series on x86-64."""
    lines = ["", "Run on: " + ", ".join(f"{kernel} ({result['release']})" for kernel, result in results.items()) + "."]
    for kernel, result in results.items():
        series, _, machine = kernel.partition("-")
        if not machine or series not in results:
            continue
        other = [f"“{title}” ({cell(result, title)} there, {cell(results[series], title)} on x86-64)"
                 for title in sorted(result["tests"])
                 if title in results[series]["tests"] and cell(result, title) != cell(results[series], title)]
        lines += ["", f"On {machine}, {series} differs from the column below in " +
                  (f"{len(other)} of {len(result['tests'])} facts: " + "; ".join(other) if other else "nothing") + "."]
    return lines + [""]


def main():
    parser = argparse.ArgumentParser(description="The kernel columns of docs/kernel-facts.md.")
    parser.add_argument("--take", action="store_true", help="keep the newest results first")
    options = parser.parse_args()
    book = BOOK.read_text()
    complaints = take(KEPT, NEW, set(titles(book))) if options.take else []
    BOOK.write_text(rewrite(book, load(KEPT)))
    for complaint in complaints:
        print(f"facts.py: {complaint}", file=sys.stderr)
    print(f"docs/kernel-facts.md: {len(titles(book))} facts, kernels {', '.join(load(KEPT)) or 'none'}")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
