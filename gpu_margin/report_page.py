"""How a page of the report is made: its head and frame, panels, tables, terms and charts.

The page asks no other machine for anything: plotly.js stands in it and its content policy forbids
every request. Ids are user text: `table` escapes every cell, and `label` what goes into a chart,
because plotly reads tags in its texts as well. Nothing here knows what a run is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import polars as pl

# Columns that are shares of something and read best in per cent.
_RATIOS = ("offset_ratio", "utilisation", "share")
_SHORT = 28  # letters: a longer text is wrapped in a table and cut in a chart


def page(header: str, sections: Sequence[str]) -> str:
    """The whole page, from the HTML of its header and of each of its sections."""
    # plotly is slow to import: only who wants a report pays for it.
    from plotly.offline import get_plotlyjs

    body = "\n".join([header, *sections])
    return f"{_HEAD}{get_plotlyjs()}</script></head><body><main>{body}</main></body></html>"


def section(title: str, caption: str, content: str) -> str:
    """A section, from the HTML of its content."""
    head = f'<h2>{escape(title)}</h2><p class="caption">{escape(caption)}</p>'
    return f"<section>{head}{content}</section>"


def panels(models: Sequence[str], draw: Callable[[str, str], str]) -> str:
    """One drawing per model; its charts are named by the model's number, safe in any id."""
    return "".join(
        f"<h3>{escape(model)}</h3>{draw(model, str(number))}" for number, model in enumerate(models)
    )


def table(frame: pl.DataFrame) -> str:
    """A frame as a table, its columns' names as heads; numbers to the right."""
    columns = [_column(column) for column in frame.iter_columns()]
    head, *rows = ("".join(cells) for cells in zip(*columns, strict=True))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead>{body}</table></div>'


def _column(column: pl.Series) -> list[str]:
    kind = "number" if column.dtype.is_numeric() else "text"
    cells = ((kind if len(cell) <= _SHORT else "long", escape(cell)) for cell in _cells(column))
    head = f'<th class="{kind}">{_head(column.name)}</th>'
    return [head, *(f'<td class="{look}">{cell}</td>' for look, cell in cells)]


def _cells(column: pl.Series) -> list[str]:
    if column.dtype.is_float() and column.name not in _RATIOS:
        return amounts(column.to_list())
    return ["-" if value is None else _cell(value) for value in column]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "incomplete"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:z.1%}" if isinstance(value, float) else _short(str(value), 200)


def amounts(values: Sequence[float | None]) -> list[str]:
    """Amounts that stand together, all with the decimals that the largest of them needs."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    decimals = 0 if largest >= 10_000 else 2 if largest >= 1 or largest == 0 else 8
    return ["-" if value is None else f"{value:z,.{decimals}f}" for value in values]


def chart(name: str, traces: Sequence[Mapping[str, Any]], **layout: Any) -> str:
    """A chart of these traces in the layout common to all; `name` becomes part of its id."""
    import plotly.graph_objects as go
    from plotly.io import to_html

    figure: Any = go.Figure(traces, {**_LAYOUT, **layout})
    figure.update_xaxes(automargin=True, gridcolor="#e5e7eb")
    figure.update_yaxes(automargin=True, gridcolor="#e5e7eb")
    config = {"displayModeBar": False, "displaylogo": False, "responsive": True}
    text = to_html(figure, config, full_html=False, include_plotlyjs=False, div_id=f"chart-{name}")
    return f'<div class="chart">{text}</div>'


def label(text: str) -> str:
    """Text for plotly, which reads tags but, unlike HTML, takes quotes as they are."""
    return escape(_short(text, _SHORT), quote=False)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _head(name: str) -> str:
    return name[:1].upper() + name[1:].replace("_", " ")


def note(text: str) -> str:
    """A remark as a paragraph; none where there is nothing to say."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def terms(facts: Mapping[str, Any]) -> str:
    """Facts as a list of names and values."""
    rows = (f"<dt>{_head(name)}</dt><dd>{escape(str(facts[name]))}</dd>" for name in facts)
    return f"<dl>{''.join(f'<div>{row}</div>' for row in rows)}</dl>"


_LAYOUT = {
    "template": "none",
    "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#1f2933"},
    "margin": {"l": 10, "r": 30, "t": 40, "b": 10},
    "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
}

_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Initial margin</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: blob:;
 script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<style>
html { overflow-y: scroll; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #f4f6f8; margin: 0; }
main { max-width: 1240px; margin: auto; padding: 16px; }
section, .card { background: #fff; border: 1px solid #dde3ea; border-radius: 8px; padding: 16px; }
section { margin: 16px 0; } h1, h2, h3, p, dl, dd { margin: 0; } h3 { overflow-wrap: anywhere; }
h2 { color: #1f5a92; } section h3 { margin-top: 16px; } .caption, .note { color: #52606d; }
.caption { max-width: 60em; margin-bottom: 12px; } small, dt, .card p { color: #52606d; }
header dl { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 8px 0 16px; }
dt { font-size: 12px; } .card dl div { display: flex; justify-content: space-between; gap: 12px; }
.card dl { font-variant-numeric: tabular-nums; } .card .big { font-size: 26px; color: #1f2933; }
.cards, .pair, .halves { display: grid; gap: 16px; align-items: start; }
@media print, (min-width: 1100px) { .pair { grid-template-columns: minmax(0, 2fr) minmax(0, 1fr); }
 .halves { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); } }
.cards { grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); }
.table { overflow-x: auto; margin: 8px 0; } .chart { min-width: 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
td, th { padding: 3px 8px; text-align: left; border-bottom: 1px solid #e5e7eb; }
th { color: #52606d; vertical-align: bottom; } td { white-space: nowrap; vertical-align: top; }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 12em; max-width: 24em; }
td.number, th.number { text-align: right; }
@page { size: A4 landscape; margin: 10mm; }
@media print { body { background: #fff; } main { width: 1240px; padding: 0; }
 .chart, .card, .pair, .halves, tr, p { break-inside: avoid; } h2, h3, p { break-after: avoid; }
 section { border: 0; padding: 0; } .table { overflow: visible; } }
</style><script>"""
