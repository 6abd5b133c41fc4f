"""Plots of a benchmark: time against size, a workload per plot, the ceilings drawn in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from gpu_margin import report_page
from gpu_margin.bench.cases import Size, Workload, floor, short
from gpu_margin.bench.precision import FLOAT64, PRECISIONS
from gpu_margin.bench.result import WORKLOADS, BenchResult, Row

# Of backends, the same in every plot; of what practitioners write, plot by plot.
_COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#e377c2")
_OTHERS = ("#111827", "#8c564b", "#7f7f7f", "#bcbd22")
_DASHES = {"": "solid", "kernel": "solid", "resident": "dash", "upload": "dot"}
_SYMBOLS = {"float64": "circle", "mixed": "diamond", "float32": "x"}
# Of the width, what stands between two panels.
_GAP = 0.04

Trace = dict[str, Any]


def name(row: Row) -> str:
    """Its contender, with variant and precision where it has them."""
    also = row.precision if row.precision != FLOAT64.name else ""
    return ", ".join(part for part in (row.contender, row.variant, also) if part)


def by_workload(result: BenchResult) -> dict[str, list[Row]]:
    """The rows of each plot by its title; rows of all contenders together are in none."""
    plots: dict[str, list[Row]] = {}
    for row in result.rows:
        plots.setdefault(f"({row.workload}) {row.title}", []).append(row)
    return plots


def chart(result: BenchResult, number: int, rows: list[Row]) -> str:
    """Seconds against accounts, log-log: a line per contender and the floor of each ceiling.

    Sizes that differ in more than accounts stand in panels side by side, on the same axes.
    """
    if not any(row.seconds is not None for row in rows):
        return report_page.note("Nothing was timed: see the remarks below.")
    panels = _panels(rows)
    colors = _colors(result.rows, "backend", _COLORS) | _colors(rows, "practitioner", _OTHERS)
    traces: list[Trace] = []
    shown: set[str] = set()
    for place, mine in enumerate(panels.values()):
        axes = {"xaxis": f"x{place + 1}", "yaxis": f"y{place + 1}"}
        for trace in (*_lines(mine, colors), *_floors(result, mine)):
            # One entry in the legend for all panels: a click on it is for all of them.
            legend = {"legendgroup": trace["name"], "showlegend": trace["name"] not in shown}
            shown.add(trace["name"])
            traces.append({**trace, **axes, **legend})
    return report_page.chart(str(number), traces, height=460, **_axes(list(panels)))


def _colors(rows: Sequence[Row], kind: str, palette: Sequence[str]) -> dict[str, str]:
    """A colour for each contender of that kind."""
    names = dict.fromkeys(row.contender for row in rows if row.kind == kind)
    return {one: palette[place % len(palette)] for place, one in enumerate(names)}


def _panels(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows of each panel by the title of its axis."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        beside = ""
        if row.workload in ("a", "d"):
            beside = f" with {row.positions} positions x {short(row.scenarios)} scenarios"
        panels.setdefault(f"{_axis(row)}{beside}", []).append(row)
    return panels


def _axes(titles: list[str]) -> dict[str, Any]:
    """Axes of panels side by side, all with the same ranges."""
    width = (1.0 + _GAP) / len(titles)
    layout: dict[str, Any] = {}
    for place, title in enumerate(titles):
        number, log = str(place + 1 if place else ""), {"type": "log", "dtick": 1}
        domain = [place * width, (place + 1) * width - _GAP]
        layout[f"xaxis{number}"] = {
            **log,
            "title": title,
            "domain": [round(max(0.0, min(1.0, edge)), 6) for edge in domain],
            "anchor": f"y{number}",
            "exponentformat": "SI",
        }
        layout[f"yaxis{number}"] = {**log, "anchor": f"x{number}", "exponentformat": "power"}
        if place:
            layout[f"xaxis{number}"]["matches"] = "x"
            layout[f"yaxis{number}"] |= {"matches": "y", "showticklabels": False}
    layout["yaxis"]["title"] = "seconds (scaled to all units)"
    return layout


def _lines(rows: list[Row], colors: dict[str, str]) -> Iterator[Trace]:
    """A line per contender, variant and precision that has times."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if row.seconds is not None:
            lines.setdefault(name(row), []).append(row)
    for label, mine in lines.items():
        mine.sort(key=_along)
        yield {
            "type": "scatter",
            "mode": "lines+markers",
            "name": report_page.label(label),
            "x": [_along(row) for row in mine],
            "y": [_scaled(row) for row in mine],
            "line": {"color": colors[mine[0].contender], "dash": _DASHES[mine[0].variant]},
            "marker": {"symbol": _SYMBOLS[mine[0].precision], "size": 7},
        }


def _floors(result: BenchResult, rows: list[Row]) -> Iterator[Trace]:
    """The time at the measured ceilings, around all sizes, in the precisions that were timed."""
    places = [_along(row) for row in rows]
    x = sorted({max(1, min(places) // 2), *places, 2 * max(places)})
    first = rows[0]
    size = Size(first.accounts, first.positions, first.scenarios)
    along = [
        Size(size.accounts, size.positions, place)
        if _axis(first) == "scenarios"
        else Size(place, size.positions, size.scenarios)
        for place in x
    ]
    timed = {(row.contender, row.precision) for row in rows if row.seconds is not None}
    for where, ceiling in result.ceilings.items():
        for precision in PRECISIONS.values():
            mine = [one for one, stored in timed if stored == precision.name]
            # Whoever has no ceiling of its own works on the host.
            if not any(where == (one if one in result.ceilings else "host") for one in mine):
                continue
            also = "" if precision == FLOAT64 else f", {precision.name}"
            yield {
                "type": "scatter",
                "mode": "lines",
                "name": report_page.label(f"ceiling, {where}{also}"),
                "x": x,
                "y": [
                    floor(_workload(first).work(one, precision), ceiling, precision)
                    for one in along
                ],
                "line": {"color": "#111827", "dash": "dashdot", "width": 1},
            }


def _axis(row: Row) -> Literal["accounts", "scenarios"]:
    """What a plot runs along: a grid of instruments has no accounts."""
    return "scenarios" if row.title.endswith("grid") else "accounts"


def _along(row: Row) -> int:
    return row.scenarios if _axis(row) == "scenarios" else row.accounts


def _scaled(row: Row) -> float:
    """Seconds for the whole case, also where the contender did a part of it."""
    assert row.seconds is not None
    return row.seconds * row.case_units / row.units


def _workload(row: Row) -> Workload:
    return next(one for one in WORKLOADS[row.workload] if one.title == row.title)
