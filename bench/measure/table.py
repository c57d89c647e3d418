"""Numbers as text. Pure functions; nothing here decides anything."""


def number(value, decimals=0):
    return "–" if value is None else f"{value:,.{decimals}f}"


def figure(value):
    """Three digits that count: 0.123, 12.3, 12,345."""
    if value is None:
        return "–"
    size = abs(value)
    return number(value, 3 if size < 10 else 1 if size < 1000 else 0)


def share(value):
    return "–" if value is None else f"{100 * value:.0f} %"


def mebibytes(value):
    return "–" if value is None else f"{value / 2**20:.1f}"


def interval(ratio):
    return "–" if ratio is None else f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def duration(seconds):
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def columns(rows, gap=2):
    """Lines of aligned cells: the first column to the left, the others, which are numbers, to the right."""
    widths = _widths(rows)
    return [(" " * gap).join(cell.rjust(width) if i else cell.ljust(width)
                             for i, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]


def sentences(rows, gap=2):
    """Lines of aligned cells that are all words, or begin with the number that counts: all to the left."""
    widths = _widths(rows)
    return [(" " * gap).join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _widths(rows):
    return [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
