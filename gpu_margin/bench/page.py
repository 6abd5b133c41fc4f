"""Benchmark results for people: tables in a terminal, and a page with a plot per workload.

The page asks no other machine for anything: plotly.js stands in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape as plain
from rich.table import Table

from gpu_margin import report_page
from gpu_margin.bench import charts
from gpu_margin.bench.result import BenchResult, Row

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
    "error": lambda row: "" if row.error is None else f"{row.error:.0e}",
}


_CEILINGS = {
    "copy_gb_s": "copy GB/s",
    "copy_one_core_gb_s": "one core GB/s",
    "gemm_gflop_s": "GEMM fp64 GFLOP/s",
    "gemm_fp32_gflop_s": "GEMM fp32 GFLOP/s",
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
    table = _table(title, ("where",), tuple(_CEILINGS.values()))
    for where, figures in result.ceilings.items():
        table.add_row(plain(where), *_ceiling_cells(figures))
    return table


def _ceiling_cells(figures: dict[str, float]) -> list[str]:
    known = (figures.get(key) for key in _CEILINGS)
    return ["" if one is None else f"{one:,.1f}" for one in known]


def _times(result: BenchResult) -> Table:
    title = (
        f"Best of {result.rounds} rounds, float64 where nothing else is said; ratio: time per unit "
        f"to the first of each size; {result.state}"
    )
    table = _table(title, ("workload", "size", "contender"), tuple(_CELLS))
    table.add_column("remark")
    before = None
    for row in result.rows:
        case = (f"({row.workload}) {row.title}", row.size)
        if before is not None and case != before:
            table.add_section()
        head = case if case != before else ("", "")
        cells = (cell(row) for cell in _CELLS.values())
        table.add_row(*head, plain(charts.name(row)), *cells, plain(_remark(row, result.rounds)))
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


def _remark(row: Row, rounds: int) -> str:
    """Why there is no time, or what it is not of: all units, all rounds."""
    if row.status != "ok":
        return f"{row.status}: {row.reason}"
    said = []
    if row.units < row.case_units:
        why = f": {row.note}" if row.note else ""
        said.append(f"on the first {row.units:,} {row.unit} only{why}")
    if len(row.rounds) < rounds:
        said.append(f"{len(row.rounds)} of {rounds} rounds")
    return "; ".join(said)


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

    plots = "".join(
        f"<h2>{escape(title)}</h2>{charts.chart(result, number, rows)}"
        for number, (title, rows) in enumerate(charts.by_workload(result).items())
    )
    ceilings = [
        {"where": where, **dict(zip(_CEILINGS.values(), _ceiling_cells(figures), strict=True))}
        for where, figures in result.ceilings.items()
    ]
    body = f"<h1>Benchmark</h1>{report_page.terms(_facts(result))}<h2>Measured ceilings</h2>"
    body += report_page.table(pl.DataFrame(ceilings, infer_schema_length=None))
    body += report_page.note(_NOTE) + plots + "<h2>All figures</h2>"
    body += report_page.table(_frame(result))
    return _PAGE.format(body=body, script=get_plotlyjs())


def _facts(result: BenchResult) -> dict[str, str]:
    """The machine and how the run was started."""
    machine = result.machine
    return {
        "state": result.state,
        "processor": f"{machine['processor']}, {machine['cores']} cores",
        "memory": f"{machine['memory_bytes'] / 2**30:.1f} GiB",
        "gpus": "; ".join(machine["gpus"]) or "none",
        "system": machine["system"],
        "backends": "; ".join(f"{name}: {text}" for name, text in result.backends.items()),
        "command": result.command,
        "created": result.created,
        "versions": ", ".join(f"{name} {number}" for name, number in result.versions.items()),
    }


def _frame(result: BenchResult) -> pl.DataFrame:
    rows = [
        {
            "workload": f"({row.workload}) {row.title}",
            "size": row.size,
            "contender": charts.name(row),
            **{head: cell(row) for head, cell in _CELLS.items()},
            "remark": _remark(row, result.rounds),
        }
        for row in result.rows
    ]
    return pl.DataFrame(rows)


_NOTE = """The dash-dotted line is the time at these ceilings: every array read from memory once at
the speed of a copy, or every operation at the speed of the matrix product, whichever is longer. A
small case that stays in the caches may lie below it. Of a device, 'upload' is the time from host to
host, 'resident' that with the portfolio there, and 'kernel' that with the results left there as
well, until the device says that it is done. Errors are shares of gross, to float64's answer."""

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
td {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
td.long {{ white-space: normal; min-width: 24em; }}
</style><script>{script}</script></head><body><main>{body}</main></body></html>"""
