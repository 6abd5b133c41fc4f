"""report.html: one self-contained page on which a risk manager reads a finished run.

The page asks no other machine for anything: plotly.js stands in it and its content policy forbids
every request. Histograms and rankings are made here, so that it hardly grows with the accounts.
Ids are user text: `_table` escapes every cell, and `_label` what goes into a chart, because plotly
reads tags in its texts as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from gpu_margin.result import Run

_TOP, _GROUPS, _FACTORS, _POINTS, _FAILURES = 20, 15, 60, 20_000, 100
_BINS_PER_DECADE = 8
_SHORT = 28  # letters: a longer text is wrapped in a table and cut in a chart
# Below this share of the largest requirement an amount is the rounding noise of a perfect hedge.
_ZERO_SHARE = 1e-9

_SUMS = ("requirement", "standalone", "offset")
_FIGURES = (*_SUMS, "offset_ratio")
_RATIO = (pl.col("offset") / pl.col("standalone")).fill_nan(0.0)
_REQUIREMENT, _OFFSET, _WARNING = "#1f5a92", "#a9cbe6", "#d55e00"
_PARTS = (("requirement", _REQUIREMENT), ("offset", _OFFSET))
# Okabe and Ito's colours, which colour-blind readers tell apart.
_COLOURS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#d55e00", "#000000")


@dataclass(frozen=True)
class _View:
    """What every section reads: `accounts` are the rows of margins at level initial.

    `totals` has two rows per model: of its complete accounts, and apart from them of the rest.
    """

    run: Run
    accounts: pl.DataFrame
    totals: pl.DataFrame
    models: tuple[str, ...]
    currency: str

    def of(self, model: str) -> pl.DataFrame:
        return self.accounts.filter(pl.col("model") == model)

    def total(self, model: str, complete: bool = True) -> dict[str, Any]:
        wanted = (pl.col("model") == model) & (pl.col("complete") == complete)
        return self.totals.row(by_predicate=wanted, named=True)


def render(run: Run) -> str:
    """The report of a finished run, as the text of one HTML page without outside references."""
    # plotly is slow to import: only who wants a report pays for it.
    from plotly.offline import get_plotlyjs

    view = _view(run)
    body = _BODY.format(
        header=_header(view),
        by_model=_by_model(view),
        distribution=_distribution(view),
        accounts=_panels(view, partial(_ranking, by="requirement")),
        offsets=_panels(view, partial(_ranking, by="offset")),
        groups=_panels(view, _groups),
        correlation=_correlation(view),
        side_by_side=_side_by_side(view),
        failed=_what_failed(view),
    )
    return f"{_HEAD}{get_plotlyjs()}</script></head><body><main>{body}</main></body></html>"


def _view(run: Run) -> _View:
    accounts = run.margins.filter(pl.col("level") == "initial")
    present = accounts["model"].unique(maintain_order=True).to_list()
    config = _part(run.manifest, "config")
    models = tuple(sorted(present, key=[*_part(config, "models"), *present].index))
    currency = str(config.get("currency", ""))
    return _View(run, accounts, _totals(accounts, models), models, currency)


def _totals(accounts: pl.DataFrame, models: Sequence[str]) -> pl.DataFrame:
    """Sums by model and completeness; zeros where a model has no such accounts."""
    sums = accounts.group_by("model", "complete").agg(
        pl.col(_SUMS).sum(),
        accounts=pl.len(),
        without_figure=pl.col("requirement").null_count(),
    )
    keys = [(model, complete) for model in models for complete in (True, False)]
    every = pl.DataFrame(keys, {"model": pl.String, "complete": pl.Boolean}, orient="row")
    joined = every.join(sums, on=["model", "complete"], how="left", maintain_order="left")
    filled = joined.with_columns(pl.exclude("model", "complete").fill_null(0))
    return filled.with_columns(offset_ratio=_RATIO)


def _part(source: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A table of the manifest, empty where it is absent or something else."""
    value = source.get(key)
    return value if isinstance(value, Mapping) else {}


def _header(view: _View) -> str:
    manifest = view.run.manifest
    backend, counts = _part(manifest, "backend"), _part(manifest, "counts")
    facts = {
        "valuation_date": _part(manifest, "config").get("valuation_date", "-"),
        "currency": view.currency or "-",
        "computed": str(manifest.get("created", "-")).replace("T", " "),
        "time_taken": f"{sum(_part(manifest, 'seconds').values()):,.1f} s",
        "backend": " · ".join(str(value) for value in backend.values()) or "-",
        "version": manifest.get("gpu_margin", "-"),
        **{name: f"{count:,}" for name, count in counts.items() if isinstance(count, int)},
    }
    cards = "".join(_card(view, model) for model in view.models)
    return (
        f"<header><h1>Initial margin</h1>{_terms(facts)}</header>"
        f'<div class="cards">{cards or _note("No account has been computed.")}</div>'
    )


def _card(view: _View, model: str) -> str:
    """Headline numbers of one model: complete accounts, and beside them the incomplete ones."""
    whole, rest = view.total(model), view.total(model, complete=False)
    requirement, standalone, offset = _amounts([whole[name] for name in _SUMS])
    facts = {
        "total_standalone": standalone,
        "total_offset": offset,
        "offset_ratio": f"{whole['offset_ratio']:.1%}",
        "complete_accounts": f"{whole['accounts']:,}",
        "incomplete_accounts, in no total": f"{rest['accounts']:,}",
    }
    return (
        f'<div class="card"><h3>{escape(model)}</h3><p>total requirement</p>'
        f'<p class="big">{requirement} <small>{escape(view.currency)}</small></p>'
        f"{_terms(facts)}</div>"
    )


def _by_model(view: _View) -> str:
    mark = pl.when("complete").then(pl.lit("")).otherwise(pl.lit(" (incomplete)"))
    totals = view.totals.filter(pl.col("complete") | (pl.col("accounts") > 0))
    table = totals.select("model", "accounts", "complete", "without_figure", *_FIGURES)
    bars = _stacked(view, totals.with_columns(label=pl.col("model") + mark), "by-model")
    return _table(table) + bars


def _distribution(view: _View) -> str:
    whole = view.accounts.filter(pl.col("complete") & pl.col("requirement").is_not_null())
    noise = max(whole["requirement"].to_list(), default=0.0) * _ZERO_SHARE
    amount = pl.col("requirement")
    summary = whole.group_by("model", maintain_order=True).agg(
        accounts=pl.len(),
        zero_requirement=(amount <= noise).sum(),
        median=amount.median(),
        percentile_95=amount.quantile(0.95, "linear"),
        largest=amount.max(),
    )
    seen = whole.filter(amount > noise)
    empty = _note("No complete account has a requirement above zero.")
    shown = empty if seen.is_empty() else _histogram(view, seen)
    return _table(summary) + shown


def _histogram(view: _View, accounts: pl.DataFrame) -> str:
    """One stepped outline per model, over bins of equal ratio."""
    powers = accounts.select("model", pl.col("requirement").log10())
    low = np.floor(min(powers["requirement"]))
    high = max(np.ceil(max(powers["requirement"])), low + 1)
    edges = np.linspace(low, high, int(high - low) * _BINS_PER_DECADE + 1)
    ends = _amounts((10.0**edges).tolist())
    spans = [f"{left} to {right}" for left, right in pairwise(ends)]
    traces = []
    for number, model in enumerate(view.models):
        colour = _COLOURS[number % len(_COLOURS)]
        counts, _ = np.histogram(powers.filter(pl.col("model") == model)["requirement"], edges)
        # The left edge comes twice and the last count is nothing: a closed outline.
        data = {"x": [10.0 ** edges[0], *(10.0**edges)], "y": [0, *counts.tolist(), 0]}
        look = {"mode": "lines", "line_shape": "hv", "line_color": colour, "fill": "tozeroy"}
        hover = {"text": ["", *spans, ""], "hovertemplate": "%{text}: %{y:,} accounts"}
        traces.append({"type": "scatter", "name": _label(model), **data, **look, **hover})
    x_axis, y_axis = _axis(view, "requirement", log=True), {"title": {"text": "accounts"}}
    return _chart("distribution", traces, height=380, xaxis=x_axis, yaxis=y_axis)


def _ranking(view: _View, model: str, name: str, by: str) -> str:
    """The accounts with the most of one figure, as a table and as bars; ties by id."""
    above = view.of(model).filter(pl.col(by) > 0)
    top = above.sort([by, "account_id"], descending=[True, False]).head(_TOP)
    if top.is_empty():
        return _note(f"No account has more than zero {by}.")
    ranked = top.with_row_index("#", 1).with_columns(label="account_id")
    table = ranked.select("#", "account_id", *_FIGURES, "worst_scenario", "complete")
    # Beside large offsets nobody could compare the requirements.
    parts = _PARTS[::-1] if by == "offset" else _PARTS[:1]
    bars = _stacked(view, ranked, f"{by}-{name}", parts)
    return f'<div class="pair">{_table(table)}{bars}</div>'


def _groups(view: _View, model: str, name: str) -> str:
    """The largest groups, all others in one row, and how standalone becomes requirement."""
    groups = view.run.group_totals.filter(pl.col("model") == model)
    if groups.is_empty():
        return _note("This model tells no product groups apart.")
    ranked = groups.sort(["standalone", "product_group"], descending=[True, False])
    rest = pl.lit(f"{len(ranked) - _GROUPS} other groups")
    head = pl.int_range(pl.len()) < _GROUPS
    named = ranked.with_columns(label=pl.when(head).then("product_group").otherwise(rest))
    summed = named.group_by("label", maintain_order=True).agg(
        pl.col(_SUMS).sum(),
        # An account is in several groups: their counts do not add up.
        accounts=pl.when(pl.len() == 1).then(pl.col("accounts").first()),
    )
    shown = summed.with_columns(product_group="label", offset_ratio=_RATIO, complete=True)
    table = shown.select("product_group", "accounts", *_FIGURES)
    bars = _stacked(view, shown, f"groups-{name}") + _waterfall(view, model, groups, name)
    return f'{_table(table)}<div class="halves">{bars}</div>'


def _waterfall(view: _View, model: str, groups: pl.DataFrame, name: str) -> str:
    standalone, within = float(groups["standalone"].sum()), float(groups["requirement"].sum())
    requirement = float(view.total(model)["requirement"])
    steps = [standalone, within - standalone, requirement - within, requirement]
    words = ["standalone", "offset within<br>groups", "offset between<br>groups", "requirement"]
    labels = [f"{word}<br>{step}" for word, step in zip(words, _amounts(steps), strict=True)]
    data = {"x": labels, "y": steps, "measure": ["absolute", "relative", "relative", "total"]}
    look = {
        "totals_marker_color": _REQUIREMENT,
        "decreasing_marker_color": _OFFSET,
        "increasing_marker_color": _WARNING,
    }
    trace = {"type": "waterfall", **data, **look, "hoverinfo": "skip"}
    return _chart(f"waterfall-{name}", [trace], height=330, yaxis=_axis(view))


def _correlation(view: _View) -> str:
    factors = view.run.correlation.factors
    names = [_label(factor) for factor in factors[:_FACTORS]]
    if not names:
        return _note("No factor has returns to correlate.")
    size = len(names)
    pairs = [[f"{row} and {column}" for column in names] for row in names]
    data = {"z": view.run.correlation.matrix[:size, :size].round(4).tolist(), "customdata": pairs}
    look = {"zmin": -1, "zmax": 1, "colorscale": "RdBu", "showscale": size > 12}
    text = {"texttemplate": "%{z:.2f}"} if size <= 12 else {}
    hover = {"hovertemplate": "%{customdata}: %{z:.3f}<extra></extra>"}
    axis = {"tickvals": list(range(size)), "ticktext": names, "constrain": "domain"}
    y_axis = {**axis, "autorange": "reversed", "scaleanchor": "x"}
    trace = {"type": "heatmap", **data, **look, **text, **hover}
    chart = _chart("factors", [trace], height=min(260 + 40 * size, 900), xaxis=axis, yaxis=y_axis)
    said = f"The first {size} of {len(factors):,} factors." if len(factors) > size else ""
    return _note(said) + chart


def _side_by_side(view: _View) -> str:
    if len(view.models) < 2:
        return _note("One model only: nothing to compare.")
    both = view.of(view.models[0]).join(view.of(view.models[1]), on="account_id", suffix="_2")
    seen = both.filter((pl.col("requirement") > 0) & (pl.col("requirement_2") > 0))
    if seen.is_empty():
        return _note("No account has a requirement under both models.")
    # Cut to the largest, so that the page stays small and a browser draws it.
    size = pl.max_horizontal("requirement", "requirement_2")
    points = seen.sort(size, "account_id").tail(_POINTS)
    cut = f"the largest {len(points):,} of " if len(points) < len(seen) else ""
    said = f"Shown: {cut}{len(seen):,} accounts with a requirement under both models."
    values = [*points["requirement"], *points["requirement_2"]]
    ends = [min(values), max(values)]
    diagonal = {"type": "scatter", "name": "equal", "mode": "lines", "x": ends, "y": ends}
    traces = [{**diagonal, "line": {"color": "#6b7280", "width": 1}, "hoverinfo": "skip"}]
    complete = pl.col("complete") & pl.col("complete_2")
    for name, colour, wanted in (("", _REQUIREMENT, complete), ("in", _WARNING, ~complete)):
        chosen = points.filter(wanted)
        data = {"x": chosen["requirement"].to_list(), "y": chosen["requirement_2"].to_list()}
        look = {"mode": "markers", "marker": {"color": colour, "size": 5, "opacity": 0.5}}
        ids = [_label(account) for account in chosen["account_id"]]
        hover = {"text": ids, "hovertemplate": "%{text}<br>%{x:,.2f} and %{y:,.2f}"}
        traces.append({"type": "scatter", "name": f"{name}complete", **data, **look, **hover})
    x_axis, y_axis = (_axis(view, _label(model), log=True) for model in view.models[:2])
    return _note(said) + _chart("models", traces, height=560, xaxis=x_axis, yaxis=y_axis)


def _what_failed(view: _View) -> str:
    failures = view.run.failures
    incomplete = view.accounts.filter(~pl.col("complete"))["account_id"].n_unique()
    if failures.is_empty() and not incomplete:
        return _note("Nothing failed: every row was used and every account is complete.")
    reasons = failures.group_by("reason").agg(failures=pl.len())
    ranked = reasons.sort(["failures", "reason"], descending=[True, False])
    first = failures.head(_FAILURES).select("source", "row", "field", "value", "reason")
    said = f"Failures: {len(failures):,}. Incomplete accounts: {incomplete:,}."
    listed = f"The first {len(first)} of {len(failures):,} failures:"
    return _note(said) + _table(ranked) + _note(listed) + _table(first)


def _panels(view: _View, draw: Callable[[_View, str, str], str]) -> str:
    """One drawing per model; its charts are named by the model's number, safe in any id."""
    return "".join(
        f"<h3>{escape(model)}</h3>{draw(view, model, str(number))}"
        for number, model in enumerate(view.models)
    )


def _table(frame: pl.DataFrame) -> str:
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
    if column.dtype.is_float() and column.name != "offset_ratio":
        return _amounts(column.to_list())
    return ["-" if value is None else _cell(value) for value in column]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "incomplete"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:z.1%}" if isinstance(value, float) else _short(str(value), 100)


def _amounts(values: Sequence[float | None]) -> list[str]:
    """Amounts that stand together, all with the decimals that the largest of them needs."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    decimals = 0 if largest >= 10_000 else 2 if largest >= 1 or largest == 0 else 8
    return ["-" if value is None else f"{value:z,.{decimals}f}" for value in values]


def _stacked(
    view: _View, rows: pl.DataFrame, name: str, parts: Sequence[tuple[str, str]] = _PARTS
) -> str:
    """Bars of requirement + offset = standalone by `label`; hatched where not `complete`."""
    places, labels = list(range(len(rows))), [_label(label) for label in rows["label"]]
    shapes = ["" if complete else "/" for complete in rows["complete"]]
    hatch = {"shape": shapes, "fillmode": "overlay", "fgcolor": _WARNING}
    traces: list[Mapping[str, Any]] = []
    for part, colour in parts:
        data = {"x": rows[part].to_list(), "y": places, "orientation": "h"}
        look = {"marker": {"color": colour, "pattern": hatch}, "customdata": labels}
        hover = {"hovertemplate": f"%{{customdata}}<br>{part} %{{x:,.2f}}<extra></extra>"}
        traces.append({"type": "bar", "name": part, **data, **look, **hover})
    axis = {"tickvals": places, "ticktext": labels, "autorange": "reversed"}
    height = 110 + 26 * len(rows)
    return _chart(name, traces, height=height, barmode="relative", xaxis=_axis(view), yaxis=axis)


def _axis(view: _View, name: str = "", log: bool = False) -> dict[str, Any]:
    title = ", ".join(part for part in (name, _label(view.currency)) if part)
    return {"title": {"text": title}, "type": "log" if log else "linear"}


def _chart(name: str, traces: Sequence[Mapping[str, Any]], **layout: Any) -> str:
    import plotly.graph_objects as go
    from plotly.io import to_html

    figure: Any = go.Figure(traces, {**_LAYOUT, **layout})
    figure.update_xaxes(automargin=True, gridcolor="#e5e7eb")
    figure.update_yaxes(automargin=True, gridcolor="#e5e7eb")
    config = {"displayModeBar": False, "displaylogo": False, "responsive": True}
    text = to_html(figure, config, full_html=False, include_plotlyjs=False, div_id=f"chart-{name}")
    return f'<div class="chart">{text}</div>'


def _label(text: str) -> str:
    """Text for plotly, which reads tags but, unlike HTML, takes quotes as they are."""
    return escape(_short(text, _SHORT), quote=False)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _head(name: str) -> str:
    return name[:1].upper() + name[1:].replace("_", " ")


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""


def _terms(facts: Mapping[str, Any]) -> str:
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

_BODY = """{header}
<section><h2>Total requirement and offset</h2><p class="caption">Standalone is the sum of what
each position would require alone; the offset is what holding them together saves: requirement +
offset = standalone. Accounts with a bad row are incomplete: their figures stand apart, hatched,
and are in no total.</p>{by_model}</section>
<section><h2>Distribution of requirements</h2><p class="caption">How many complete accounts have a
requirement of which size, on a logarithmic scale.</p>{distribution}</section>
<section><h2>Largest accounts</h2><p class="caption">By requirement; incomplete accounts are
hatched. The worst scenario is the one that costs the account most, where the model has
scenarios.</p>{accounts}</section>
<section><h2>Largest offsets</h2><p class="caption">The accounts whose margin leans most on
correlations: look here first when these may break.</p>{offsets}</section>
<section><h2>Product groups</h2><p class="caption">What positions offset within each product group,
and what the groups of an account offset between them on the way from standalone to requirement.
Complete accounts only.</p>{groups}</section>
<section><h2>Correlation of factors</h2><p class="caption">Of daily returns. Near 1, a long and a
short position offset each other; near -1, two positions of the same sign do.</p>{correlation}
</section>
<section><h2>Models side by side</h2><p class="caption">Each account's requirement under the first
two models; on the line they agree.</p>{side_by_side}</section>
<section><h2>What failed</h2><p class="caption">What could not be used, and why. The rest was
computed.</p>{failed}</section>"""
