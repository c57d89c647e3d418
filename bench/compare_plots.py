#!/usr/bin/env -S python3 -B
"""The pictures of make compare: compare_plots.py RESULTS.JSON FOLDER writes FOLDER/*.svg.

A process of its own, because matplotlib may be there for another Python than the one that measures. A picture for which
there is no data is not drawn. Exit code: 0; 2, usage; 4, no matplotlib.

Text stays text in them (svg.fonttype none), and what has an identity in them begins with the picture's name, so that
all of them can stand in one page.
"""

import json
import math
import pathlib
import re
import statistics
import sys

from compare_report import grids, is_headline
from echo_servers import BRIEF

try:
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot, ticker
except ImportError:
    sys.exit(4)

URING, EPOLL, OTHER, GREY, INK = "#0b62a4", "#c8501e", "#6b8e23", "#888888", "#1a1a1a"
STATE_COLOURS = {"better": URING, "worse": EPOLL}
WHO_COLOURS = {"io_uring": URING, "io_uring fixed": URING, "epoll": EPOLL, "epoll inline": EPOLL,
               "epoll sendfile": "#d19a1b"}
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99_9": 0.999}
USUAL = ("io_uring", "io_uring fixed", "this ring layer")  # whose name need not be said in each row
MOST_ROWS = 100  # of ratios in one panel: the table has them all
SIZE_COLOURS = ("#0b62a4", "#2a9d8f", "#d19a1b", "#c8501e", "#7b3294")

matplotlib.rcParams.update({
    "svg.fonttype": "none", "font.family": ["DejaVu Sans", "Helvetica", "Arial", "sans-serif"], "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK, "axes.titlesize": 10,
    "axes.titlelocation": "left", "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.7,
    "axes.axisbelow": True, "legend.frameon": False, "figure.constrained_layout.use": True,
})


def colour_of(who):
    return WHO_COLOURS.get(who, OTHER)


def save(figure, folder, name):
    matplotlib.rcParams["svg.hashsalt"] = name
    path = folder / f"{name}.svg"
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(path, metadata=nothing)
    pyplot.close(figure)
    path.write_text(own_identities(path.read_text(encoding="utf-8"), name), encoding="utf-8")


def own_identities(svg, name):
    """Each id and each use of it with the picture's name in front. A role and a name for those who cannot see it."""
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)


def plain_numbers(axis):
    axis.set_major_formatter(ticker.FuncFormatter(
        lambda value, _: f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def sizes(axis):
    axis.set_major_formatter(ticker.FuncFormatter(
        lambda value, _: f"{value / 1024:.0f} KiB" if value >= 1024 else f"{value:.0f}"))
    axis.set_minor_formatter(ticker.NullFormatter())


# ---- Ratios with their intervals ---------------------------------------------------------------------------------


def row_name(one):
    kind = one["measure"].split(",")[0]
    usual = one["group"] != "ways" and one["ours"] in USUAL
    who = one["theirs"] if usual else f"{one['ours']} against {one['theirs']}"
    return f"{one['cell']}: {who}; {kind}"


def rows_of_ratios(data):
    judged = [one for one in data["findings"] if one["ratio"] and is_headline(data, one) and one["state"] in
              ("better", "worse", "same")]
    return {"io_uring against …": [one for one in judged if one["group"] != "ways"][:MOST_ROWS],
            "one way of using io_uring against another": [one for one in judged if one["group"] == "ways"][:MOST_ROWS]}


def draw_ratios(data, folder):
    panels = {title: rows for title, rows in rows_of_ratios(data).items() if rows}
    if not panels:
        return
    heights = [len(rows) + 1.6 for rows in panels.values()]
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(10.5, 0.25 * sum(heights) + 0.6), sharex=True,
                                   squeeze=False, gridspec_kw={"height_ratios": heights})
    for axis, (title, rows) in zip(axes[:, 0], panels.items()):
        for at, one in enumerate(reversed(rows)):
            ratio, colour = one["ratio"], STATE_COLOURS.get(one["state"], GREY)
            axis.plot([ratio["low"], ratio["high"]], [at, at], color=colour, linewidth=2.2, solid_capstyle="butt")
            axis.plot([ratio["median"]], [at], "o", color=colour, markersize=5)
            axis.annotate(f"{ratio['median']:.2f}", (1.01, at), xycoords=("axes fraction", "data"), va="center",
                          color=colour, fontsize=8)
        axis.axvline(1, color=INK, linewidth=1)
        axis.set_yticks(range(len(rows)), [row_name(one) for one in reversed(rows)], fontsize=8)
        axis.set_ylim(-0.7, len(rows) - 0.3)
        axis.grid(axis="y", visible=False)
        axis.set_title(title)
    every = [one["ratio"] for rows in panels.values() for one in rows]
    last = axes[-1, 0]
    last.set_xscale("log")
    last.set_xlim(min(0.8, *(ratio["low"] for ratio in every)) / 1.08,
                  max(1.25, *(ratio["high"] for ratio in every)) * 1.08)
    last.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    plain_numbers(last.xaxis)
    last.set_xlabel("ratio, logarithmic: ◂ the other is better   |   io_uring (or the first named) is better ▸")
    save(figure, folder, "ratios")


# ---- Every cell --------------------------------------------------------------------------------------------------


def draw_cells(data, folder):
    panels = grids(data)
    if not panels:
        return
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(max(6, 4.2 * columns), 3.2 * rows), squeeze=False)
    for axis, grid in zip(axes.flat, panels):
        for line, (load, row) in enumerate(grid["rows"]):
            draw_cell_line(axis, SIZE_COLOURS[line % len(SIZE_COLOURS)], load, row, 0.09 * (line - 2))
        axis.axhline(1, color=INK, linewidth=1)
        axis.set_xticks(range(len(grid["connections"])), [f"{number:,}" for number in grid["connections"]])
        axis.set_xlim(-0.5, len(grid["connections"]) - 0.5)
        axis.grid(axis="x", visible=False)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.2, 1.5, 2, 3, 5, 8, 9)))
        axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_locator(ticker.NullLocator())
        low, high = axis.get_ylim()
        axis.set_ylim(min(low, 0.8), max(high, 1.25))
        axis.set_title(grid["title"].replace(": ", ":\n"), fontsize=9)
        axis.legend(fontsize=7, ncols=2)
    for axis in axes[-1]:
        axis.set_xlabel("connections")
    for axis in list(axes.flat)[len(panels):]:
        axis.set_visible(False)
    save(figure, folder, "cells")


def draw_cell_line(axis, colour, load, row, aside):
    """Each size a little aside of the others; hollow: measured and not ranked."""
    points = [(at + aside, one) for at, one in enumerate(row) if one]
    axis.plot([x for x, _ in points], [one["ratio"]["median"] for _, one in points], color=colour, linewidth=0.9,
              label=load)
    for x, one in points:
        ratio, ranked = one["ratio"], one["state"] in ("better", "worse", "same")
        axis.plot([x, x], [ratio["low"], ratio["high"]], color=colour, linewidth=2, alpha=0.55)
        axis.plot([x], [ratio["median"]], "o", color=colour, markersize=4,
                  markerfacecolor=colour if ranked else "white")


# ---- Cold reads --------------------------------------------------------------------------------------------------


def draw_cold(data, folder):
    cold = data["plots"].get("cold")
    if not cold:
        return
    bars = [bar for bar in cold["bars"] if bar["rate"]]
    servers = [bar for bar in bars if not bar["ceiling"]]
    ceilings = [bar for bar in bars if bar["ceiling"]]
    if not servers:
        return
    figure, axis = pyplot.subplots(figsize=(9, 0.38 * len(servers) + 1.3))
    places = range(len(servers) - 1, -1, -1)
    axis.barh(places, [bar["rate"] for bar in servers], height=0.62,
              color=[URING if bar["ours"] else EPOLL for bar in servers])
    for place, bar in zip(places, servers):
        axis.annotate(f"{bar['rate']:,.0f}", (bar["rate"], place), xytext=(4, 0), textcoords="offset points",
                      va="center", fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    for bar in ceilings:
        axis.axvline(bar["rate"], color=INK, linewidth=1, linestyle="--")
        axis.annotate(f"{bar['label']}: {bar['rate']:,.0f}", (bar["rate"], len(servers) - 0.4), ha="center",
                      va="bottom", fontsize=8, annotation_clip=False)
    axis.set_ylim(-0.6, len(servers) - 0.4)
    axis.set_yticks(places, [bar["label"] for bar in servers])
    axis.set_xlim(0, 1.12 * max(bar["rate"] for bar in bars))
    axis.grid(axis="y", visible=False)
    plain_numbers(axis.xaxis)
    axis.set_xlabel(f"requests a second: {cold['title']}, past the page cache")
    save(figure, folder, "cold")


# ---- Throughput over connections ---------------------------------------------------------------------------------


def draw_connections(data, folder):
    draw_rates_over_connections(data["plots"].get("file_connections", []), folder, "file-connections", "requests")
    draw_rates_over_connections(data["plots"].get("connections", []), folder, "connections", "messages")


def draw_rates_over_connections(every, folder, picture, what):
    panels = {}
    for point in every:
        panels.setdefault(point["panel"], {}).setdefault(point["who"], []).append(point)
    panels = {key: who for key, who in panels.items() if max(map(len, who.values())) >= 2}
    if not panels:
        return
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(max(6, 3.6 * columns), 3 * rows), squeeze=False)
    for axis, (title, who) in zip(axes.flat, panels.items()):
        for name, points in who.items():
            draw_rates(axis, name, sorted(points, key=lambda point: point["connections"]))
        axis.set_xscale("log")
        axis.set_xticks(sorted({point["connections"] for points in who.values() for point in points}))
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.set_ylim(bottom=0)
        axis.set_title(title)
        plain_numbers(axis.xaxis)
        axis.yaxis.set_major_formatter(ticker.FuncFormatter(
            lambda value, _: f"{value / 1000:,g} k" if value >= 1000 else f"{value:g}"))
        axis.set_xlabel("connections")
    axes[0, 0].set_ylabel(f"{what} a second")
    axes[0, 0].legend(loc="lower right", fontsize=7)
    for axis in list(axes.flat)[len(panels):]:
        axis.set_visible(False)
    save(figure, folder, picture)


def draw_rates(axis, name, points):
    x = [point["connections"] for point in points]
    middle = [statistics.median(point["rates"]) for point in points]
    axis.plot(x, middle, color=colour_of(name), linewidth=1.4, label=name)
    for at, point, rate in zip(x, points, middle):
        axis.plot([at, at], [min(point["rates"]), max(point["rates"])], color=colour_of(name), linewidth=2.4, alpha=0.5)
        axis.plot([at], [rate], "o", color=colour_of(name), markersize=5,
                  markerfacecolor="white" if point["generator"] else colour_of(name))


# ---- Latencies ---------------------------------------------------------------------------------------------------


def draw_latency(data, folder):
    panels = {}
    for line in data["plots"].get("percentiles", []):
        panels.setdefault(line["cell"], []).append(line)
    if not panels:
        return
    # Those first that the short report has.
    panels = dict(sorted(panels.items(), key=lambda item: (not item[0].startswith("mixed"), item[0] not in BRIEF))[:9])
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(max(6, 3.6 * columns), 3 * rows), squeeze=False)
    for axis, (cell, lines) in zip(axes.flat, panels.items()):
        for line in lines:
            names = [name for name in QUANTILES if name in line["percentiles"]]
            axis.plot([-math.log10(1 - QUANTILES[name]) for name in names],
                      [line["percentiles"][name] for name in names], "o--" if line["late"] else "o-",
                      color=colour_of(line["who"]), markersize=4, linewidth=1.4,
                      label=line["who"] + (" (generator late)" if line["late"] else ""))
        axis.set_yscale("log")
        axis.set_xticks([-math.log10(1 - q) for q in QUANTILES.values()], ["50", "90", "95", "99", "99.9 %"])
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        plain_numbers(axis.yaxis)
        axis.set_title(f"{cell}, {lines[0]['rate']:,}/s")
        axis.legend(loc="lower right", fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("µs, logarithmic")
    for axis in list(axes.flat)[len(panels):]:
        axis.set_visible(False)
    save(figure, folder, "latency")


# ---- The ladder --------------------------------------------------------------------------------------------------


def draw_ladder(data, folder):
    ladders = [one for one in data["plots"].get("ladder", []) if len(one["rungs"]) >= 2]
    if not ladders:
        return
    figure, axes = pyplot.subplots(1, len(ladders), figsize=(max(8, 6 * len(ladders)), 3.8), squeeze=False)
    for axis, one in zip(axes.flat, ladders):
        rungs = [rung for rung in one["rungs"] if rung["key"] != "epoll" and rung["cpu_us"]]
        epoll = [rung for rung in one["rungs"] if rung["key"] == "epoll" and rung["cpu_us"]]
        middles = [statistics.median(rung["cpu_us"]) for rung in rungs]
        edges = [at - 0.5 for at in range(len(rungs) + 1)]
        axis.stairs(middles, edges, color=URING, linewidth=1.8, baseline=None)
        for at, (rung, middle) in enumerate(zip(rungs, middles)):
            axis.plot([at] * len(rung["cpu_us"]), rung["cpu_us"], ".", color=URING, alpha=0.45)
            calls = f"\n{rung['calls']:.2f} calls" if rung["calls"] is not None else ""
            axis.annotate(f"{middle:.2f} µs{calls}", (at, 0.98), xycoords=("data", "axes fraction"), ha="center",
                          va="top", fontsize=8)
        highest = max(max(rung["cpu_us"]) for rung in [*rungs, *epoll])
        if epoll:
            level = statistics.median(epoll[0]["cpu_us"])
            axis.axhline(level, color=EPOLL, linewidth=1.2, linestyle="--")
            axis.annotate(f"epoll {level:.2f}", (-0.5, level), xytext=(2, -10), textcoords="offset points", color=EPOLL,
                          fontsize=8)
        axis.set_xticks(range(len(rungs)), [rung["label"] for rung in rungs])
        axis.set_ylim(0, 1.3 * highest)
        axis.grid(axis="x", visible=False)
        where = f"all at {one['rate']:,}/s" if one["rate"] else "as fast as it goes"
        axis.set_title(f"64 bytes over {one['transport']}, 128 connections, {where}")
        axis.set_ylabel("CPU time a message, µs")
    save(figure, folder, "ladder")


# ---- Zero copy ---------------------------------------------------------------------------------------------------


def draw_zero_copy(data, folder):
    panels = {}
    for line in data["plots"].get("zero_copy", []):
        panels.setdefault(line["title"], []).append(line)
    if not panels:
        return
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.4), squeeze=False, sharey=True)
    for axis, (title, lines) in zip(axes.flat, panels.items()):
        for line, colour in zip(lines, (OTHER, URING)):
            x = [point["size"] for point in line["points"]]
            from_there = f", pays from {line['crossover'] // 1024} KiB" if line["crossover"] >= 1024 else ""
            low, middle, high = ([point[name] for point in line["points"]] for name in ("low", "median", "high"))
            axis.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
            axis.plot(x, middle, "o-", color=colour, markersize=3.5, linewidth=1.4, label=line["way"] + from_there)
        axis.axhline(1, color=INK, linewidth=1)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        sizes(axis.xaxis)
        axis.xaxis.set_major_locator(ticker.LogLocator(base=2, numticks=6))
        axis.tick_params(axis="x", labelsize=8)
        plain_numbers(axis.yaxis)
        axis.set_title(title)
        axis.set_xlabel("bytes of a send")
        axis.legend(loc="upper left", fontsize=8)
    axes[0, 0].set_ylabel("SEND ÷ SEND_ZC, CPU time")
    save(figure, folder, "zero-copy")


def main(words):
    if len(words) != 2:
        print("usage: compare_plots.py RESULTS.JSON FOLDER", file=sys.stderr)
        return 2
    data = json.loads(pathlib.Path(words[0]).read_text(encoding="utf-8"))
    folder = pathlib.Path(words[1])
    for draw in (draw_ratios, draw_cells, draw_cold, draw_connections, draw_latency, draw_ladder, draw_zero_copy):
        draw(data, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
