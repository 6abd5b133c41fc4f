"""Benchmark results for people: tables in a terminal, and a page with a plot per workload.

The page asks no other machine for anything: plotly.js stands in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any, Literal

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape as plain
from rich.table import Table

from gpu_margin import report_page
from gpu_margin.bench.cases import Size, Workload, floor
from gpu_margin.bench.result import WORKLOADS, BenchResult, Row

_COLORS = ("#1f77b4", "#2ca02c", "#d62728", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
_DASHES = {"": "solid", "kernel": "solid", "resident": "dash", "upload": "dot"}

# Heads of the table, and the text of each cell.
_CELLS: dict[str, Callable[[Row], str]] = {
    "seconds": lambda row: _digits(row.seconds),
    "ratio": lambda row: "" if row.ratio is None else f"{row.ratio:.3f}",
    "per second": lambda row: _per_second(row.units_per_second, row.unit),
    "per CPU second": lambda row: _per_second(row.units_per_cpu_second, row.unit),
    "GB/s": lambda row: "" if row.gb_s is None else f"{row.gb_s:.1f}",
    "of copy": lambda row: "" if row.copy_share is None else f"{100 * row.copy_share:.0f}%",
    "x floor": lambda row: (
        "" if row.seconds is None or not row.floor else f"{row.seconds / row.floor:.1f}"
    ),
}


def show(result: BenchResult) -> None:
    """Print the tables, as wide as they need to be: a cut number is worse than a long line."""
    console = Console()
    for table in tables(result):
        wide = console.measure(table, options=console.options.update(max_width=1000)).maximum
        Console(width=max(console.width, wide)).print(table)


def tables(result: BenchResult) -> list[Table]:
    """Ceilings, times and memory."""
    found = [_ceilings(result), _times(result)]
    return [*found, _memory(result)] if result.memory else found


def _ceilings(result: BenchResult) -> Table:
    machine = result.machine
    title = f"{machine['processor']}, {machine['cores']} cores; measured ceilings"
    table = _table(title, ("where",), ("copy GB/s", "one core GB/s", "GEMM fp64 GFLOP/s"))
    for where, figures in result.ceilings.items():
        one = figures.get("copy_one_core_gb_s")
        table.add_row(
            plain(where),
            f"{figures['copy_gb_s']:.1f}",
            "" if one is None else f"{one:.1f}",
            f"{figures['gemm_gflop_s']:,.0f}",
        )
    return table


def _times(result: BenchResult) -> Table:
    title = f"Best of {result.rounds} rounds, {result.dtype}; ratio: time per unit to the baseline"
    table = _table(title, ("workload", "size", "contender"), tuple(_CELLS))
    table.add_column("remark")
    before = None
    for row in result.rows:
        case = (f"({row.workload}) {row.title}", row.size)
        if before is not None and case != before:
            table.add_section()
        head = case if case != before else ("", "")
        table.add_row(*head, plain(_name(row)), *(f(row) for f in _CELLS.values()), _remark(row))
        before = case
    return table


def _memory(result: BenchResult) -> Table:
    heads = ("after import", "peak", "matrix", "positions in Arrow", "share")
    title = "Memory of (a) in MiB; share: (peak - after import - matrix) / positions in Arrow"
    table = _table(title, ("contender", "size"), heads)
    table.add_column("remark")
    for row in result.memory:
        figures = [""] * len(heads)
        if not row["reason"]:
            sizes = (row[key] / 2**20 for key in ("imported", "peak", "matrix", "arrow"))
            figures = [*(f"{size:,.1f}" for size in sizes), f"{row['share']:.2f}"]
        table.add_row(row["contender"], row["size"], *figures, plain(row["reason"]))
    return table


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _name(row: Row) -> str:
    return f"{row.contender}, {row.variant}" if row.variant else row.contender


def _remark(row: Row) -> str:
    if row.status != "ok":
        return plain(f"{row.status}: {row.reason}")
    return f"on {row.units:,} {row.unit} only" if row.units < row.case_units else ""


def _digits(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.4f}" if seconds < 10 else f"{seconds:,.1f}"


def _per_second(number: float | None, unit: str) -> str:
    if number is None:
        return ""
    return f"{number / 1e6:,.2f}M {unit}" if number >= 1e6 else f"{number:,.0f} {unit}"


def page(result: BenchResult) -> str:
    """The whole page: a plot per workload, the table, the machine."""
    # plotly is slow to import: only who wants the page pays for it.
    from plotly.offline import get_plotlyjs

    charts = "".join(
        f"<h2>{escape(title)}</h2>{_chart(result, number, rows)}"
        for number, (title, rows) in enumerate(_by_chart(result.rows).items())
    )
    ceilings = [{"where": where, **figures} for where, figures in result.ceilings.items()]
    body = f"<h1>Benchmark</h1>{report_page.terms(_facts(result))}<h2>Measured ceilings</h2>"
    body += report_page.table(pl.DataFrame(ceilings, infer_schema_length=None))
    body += report_page.note(_NOTE) + charts + "<h2>All figures</h2>"
    body += report_page.table(_frame(result))
    return _PAGE.format(body=body, script=get_plotlyjs())


def _facts(result: BenchResult) -> dict[str, str]:
    """The machine and how the run was started."""
    machine = result.machine
    return {
        "processor": f"{machine['processor']}, {machine['cores']} cores",
        "memory": f"{machine['memory_bytes'] / 2**30:.1f} GiB",
        "gpus": "; ".join(machine["gpus"]) or "none",
        "system": machine["system"],
        "backends": "; ".join(f"{name}: {text}" for name, text in result.backends.items()),
        "command": result.command,
        "created": result.created,
        "versions": ", ".join(f"{name} {number}" for name, number in result.versions.items()),
    }


def _by_chart(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows that stand in one chart: alike but for the number of accounts."""
    charts: dict[str, list[Row]] = {}
    for row in rows:
        beside = {"a": f", {row.positions} positions x {row.scenarios} scenarios"}
        beside["d"] = beside["a"]
        title = f"({row.workload}) {row.title}{beside.get(row.workload, '')}"
        charts.setdefault(title, []).append(row)
    return charts


def _chart(result: BenchResult, number: int, rows: list[Row]) -> str:
    """Seconds against accounts, log-log, a line per contender and the floor of each ceiling."""
    done = [row for row in rows if row.seconds is not None]
    if not done:
        return report_page.note("Nothing was timed: see the remarks below.")
    names = list(dict.fromkeys(row.contender for row in result.rows))  # a colour each, everywhere
    lines = list(dict.fromkeys((row.contender, row.variant) for row in done))
    traces = []
    for name, variant in lines:
        mine = [row for row in done if (row.contender, row.variant) == (name, variant)]
        mine.sort(key=_along)
        style = {"color": _COLORS[names.index(name) % len(_COLORS)], "dash": _DASHES[variant]}
        traces.append(_line(_name(mine[0]), mine, [_scaled(row) for row in mine], style))
    traces.extend(_floors(result, done))
    axes = {"type": "log"}
    return report_page.chart(
        str(number),
        traces,
        height=460,
        xaxis={**axes, "title": _axis(rows[0])},
        yaxis={**axes, "title": "seconds (scaled to all units)"},
    )


def _axis(row: Row) -> Literal["accounts", "scenarios"]:
    """What a chart runs along: a grid of instruments has no accounts."""
    return "scenarios" if row.title.endswith("grid") else "accounts"


def _along(row: Row) -> int:
    return row.scenarios if _axis(row) == "scenarios" else row.accounts


def _scaled(row: Row) -> float:
    """Seconds for the whole case, also where the contender did a part of it."""
    assert row.seconds is not None
    return row.seconds * row.case_units / row.units


def _workload(row: Row) -> Workload:
    return next(one for one in WORKLOADS[row.workload] if one.title == row.title)


def _line(name: str, rows: list[Row], seconds: list[float], style: dict[str, Any]) -> Any:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": report_page.label(name),
        "x": [_along(row) for row in rows],
        "y": seconds,
        "line": style,
    }


def _floors(result: BenchResult, rows: list[Row]) -> Iterable[dict[str, Any]]:
    """The time at the measured ceilings, around what was timed."""
    places = [_along(row) for row in rows]
    x = sorted({max(1, min(places) // 2), *places, 2 * max(places)})
    first, used = rows[0], {row.contender for row in rows}
    size = Size(first.accounts, first.positions, first.scenarios)
    along = [
        Size(size.accounts, size.positions, place)
        if _axis(first) == "scenarios"
        else Size(place, size.positions, size.scenarios)
        for place in x
    ]
    for where, ceiling in result.ceilings.items():
        if where == "host" or where in used:
            yield {
                "type": "scatter",
                "mode": "lines",
                "name": report_page.label(f"ceiling, {where}"),
                "x": x,
                "y": [floor(_workload(first).work(one), ceiling) for one in along],
                "line": {"color": "#111827", "dash": "dashdot", "width": 1},
            }


def _frame(result: BenchResult) -> pl.DataFrame:
    rows = [
        {
            "workload": f"({row.workload}) {row.title}",
            "size": row.size,
            "contender": _name(row),
            **{head: cell(row) for head, cell in _CELLS.items()},
            "remark": _remark(row),
        }
        for row in result.rows
    ]
    return pl.DataFrame(rows)


_NOTE = """The dash-dotted line is the time at these ceilings: every array read from memory once at
the speed of a copy, or every operation at the speed of the matrix product, whichever is longer. A
small case that stays in the caches may lie below it."""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>gpu-margin bench</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: blob:;
 script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1f2933; margin: 0; }}
main {{ max-width: 1240px; margin: auto; padding: 16px; }} h2 {{ color: #1f5a92; }}
dt {{ font-size: 12px; color: #52606d; }} dd {{ margin: 0; }}
dl {{ display: flex; flex-wrap: wrap; gap: 4px 28px; }}
.table {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: 13px; }}
td, th {{ padding: 3px 8px; text-align: left; border-bottom: 1px solid #e5e7eb; }}
td {{ font-variant-numeric: tabular-nums; white-space: nowrap; }} td.long {{ white-space: normal; }}
</style><script>{script}</script></head><body><main>{body}</main></body></html>"""
