"""report.html: one self-contained page on which a risk manager reads a finished run.

Here is what the page shows, section by section; `report_page` is how it is made. Histograms and
rankings are made here, so that it hardly grows with the accounts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from gpu_margin.report_page import amounts, chart, label, note, page, panels, table, terms
from gpu_margin.result import Run

_TOP, _GROUPS, _FACTORS, _POINTS, _FAILURES = 20, 15, 60, 20_000, 100
_DECADES, _BINS_PER_DECADE = 12, 8

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
    view = _view(run)
    return page(
        header=_header(view),
        by_model=_by_model(view),
        distribution=_distribution(view),
        accounts=panels(view.models, partial(_ranking, view, by="requirement")),
        offsets=panels(view.models, partial(_ranking, view, by="offset")),
        groups=panels(view.models, partial(_groups, view)),
        correlation=_correlation(view),
        side_by_side=_side_by_side(view),
        failed=_what_failed(view),
    )


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
    lost = "".join(
        note(
            f"Backend {one['name']} failed in {one['stage']} ({one['error']}); "
            f"the run went on with {one['next']}."
        )
        for one in manifest.get("lost_backends", [])
    )
    return (
        f"<header><h1>Initial margin</h1>{terms(facts)}{lost}</header>"
        f'<div class="cards">{cards or note("No account has been computed.")}</div>'
    )


def _card(view: _View, model: str) -> str:
    """Headline numbers of one model: complete accounts, and beside them the incomplete ones."""
    whole, rest = view.total(model), view.total(model, complete=False)
    requirement, standalone, offset = amounts([whole[name] for name in _SUMS])
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
        f"{terms(facts)}</div>"
    )


def _by_model(view: _View) -> str:
    mark = pl.when("complete").then(pl.lit("")).otherwise(pl.lit("incomplete: "))
    totals = view.totals.filter(pl.col("complete") | (pl.col("accounts") > 0))
    columns = totals.select("model", "accounts", "complete", "without_figure", *_FIGURES)
    bars = _stacked(view, totals.with_columns(label=mark + pl.col("model")), "by-model")
    return table(columns) + bars


def _distribution(view: _View) -> str:
    whole = view.accounts.filter(pl.col("complete") & pl.col("requirement").is_not_null())
    amount = pl.col("requirement")
    summary = whole.group_by("model", maintain_order=True).agg(
        accounts=pl.len(),
        zero_requirement=(amount == 0).sum(),
        median=amount.median(),
        percentile_95=amount.quantile(0.95, "linear"),
        largest=amount.max(),
    )
    seen = whole.filter(amount > 0)
    empty = note("No complete account has a requirement above zero.")
    shown = empty if seen.is_empty() else _histogram(view, seen)
    return table(summary) + shown


def _histogram(view: _View, accounts: pl.DataFrame) -> str:
    """One stepped outline per model, over bins of equal ratio."""
    power = pl.col("requirement").log10()
    low, high = accounts.select(power.min().floor(), high=power.max().ceil()).row(0)
    # The rounding noise of a perfect hedge falls into the first bin: it would stretch the axis.
    low = min(max(low, high - _DECADES), high - 1)
    powers = accounts.select("model", power.clip(low))
    edges = np.linspace(low, high, int(high - low) * _BINS_PER_DECADE + 1)
    ends = amounts((10.0**edges).tolist())
    spans = [f"{left} to {right}" for left, right in pairwise(ends)]
    traces = []
    for number, model in enumerate(view.models):
        colour = _COLOURS[number % len(_COLOURS)]
        counts, _ = np.histogram(powers.filter(pl.col("model") == model)["requirement"], edges)
        # The left edge comes twice and the last count is nothing: a closed outline.
        data = {"x": [10.0 ** edges[0], *(10.0**edges)], "y": [0, *counts.tolist(), 0]}
        look = {"mode": "lines", "line_shape": "hv", "line_color": colour, "fill": "tozeroy"}
        hover = {"text": ["", *spans, ""], "hovertemplate": "%{text}: %{y:,} accounts"}
        traces.append({"type": "scatter", "name": label(model), **data, **look, **hover})
    x_axis, y_axis = _axis(view, "requirement", log=True), {"title": {"text": "accounts"}}
    return chart("distribution", traces, height=380, xaxis=x_axis, yaxis=y_axis)


def _ranking(view: _View, model: str, name: str, by: str) -> str:
    """The accounts with the most of one figure, as a table and as bars; ties by id."""
    above = view.of(model).filter(pl.col(by) > 0)
    top = above.sort([by, "account_id"], descending=[True, False]).head(_TOP)
    if top.is_empty():
        return note(f"No account has more than zero {by}.")
    ranked = top.with_row_index("#", 1).with_columns(label="account_id")
    columns = ranked.select("#", "account_id", *_FIGURES, "worst_scenario", "complete")
    # Beside large offsets nobody could compare the requirements.
    parts = _PARTS[::-1] if by == "offset" else _PARTS[:1]
    bars = _stacked(view, ranked, f"{by}-{name}", parts)
    return f'<div class="pair">{table(columns)}{bars}</div>'


def _groups(view: _View, model: str, name: str) -> str:
    """The largest groups, all others in one row, and how standalone becomes requirement."""
    groups = view.run.group_totals.filter(pl.col("model") == model)
    if groups.is_empty():
        return note("This model tells no product groups apart.")
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
    columns = shown.select("product_group", "accounts", *_FIGURES)
    bars = _stacked(view, shown, f"groups-{name}") + _waterfall(view, model, groups, name)
    return f'{table(columns)}<div class="halves">{bars}</div>'


def _waterfall(view: _View, model: str, groups: pl.DataFrame, name: str) -> str:
    standalone, within = float(groups["standalone"].sum()), float(groups["requirement"].sum())
    requirement = float(view.total(model)["requirement"])
    steps = [standalone, within - standalone, requirement - within, requirement]
    words = ["standalone", "offset within<br>groups", "offset between<br>groups", "requirement"]
    labels = [f"{word}<br>{step}" for word, step in zip(words, amounts(steps), strict=True)]
    data = {"x": labels, "y": steps, "measure": ["absolute", "relative", "relative", "total"]}
    look = {
        "totals_marker_color": _REQUIREMENT,
        "decreasing_marker_color": _OFFSET,
        "increasing_marker_color": _WARNING,
    }
    trace = {"type": "waterfall", **data, **look, "hoverinfo": "skip"}
    return chart(f"waterfall-{name}", [trace], height=330, yaxis=_axis(view))


def _correlation(view: _View) -> str:
    factors = view.run.correlation.factors
    names = [label(factor) for factor in factors[:_FACTORS]]
    if not names:
        return note("No factor has returns to correlate.")
    size = len(names)
    pairs = [[f"{row} and {column}" for column in names] for row in names]
    data = {"z": view.run.correlation.matrix[:size, :size].round(4).tolist(), "customdata": pairs}
    look = {"zmin": -1, "zmax": 1, "colorscale": "RdBu", "showscale": size > 12}
    text = {"texttemplate": "%{z:.2f}"} if size <= 12 else {}
    hover = {"hovertemplate": "%{customdata}: %{z:.3f}<extra></extra>"}
    axis = {"tickvals": list(range(size)), "ticktext": names, "constrain": "domain"}
    y_axis = {**axis, "autorange": "reversed", "scaleanchor": "x"}
    trace = {"type": "heatmap", **data, **look, **text, **hover}
    drawn = chart("factors", [trace], height=min(260 + 40 * size, 900), xaxis=axis, yaxis=y_axis)
    said = f"The first {size} of {len(factors):,} factors." if len(factors) > size else ""
    return note(said) + drawn


def _side_by_side(view: _View) -> str:
    if len(view.models) < 2:
        return note("One model only: nothing to compare.")
    both = view.of(view.models[0]).join(view.of(view.models[1]), on="account_id", suffix="_2")
    seen = both.filter((pl.col("requirement") > 0) & (pl.col("requirement_2") > 0))
    if seen.is_empty():
        return note("No account has a requirement under both models.")
    # Cut to the largest, so that the page stays small and a browser draws it.
    size = pl.max_horizontal("requirement", "requirement_2")
    points = seen.sort(size, "account_id").tail(_POINTS)
    cut = f"the largest {len(points):,} of " if len(points) < len(seen) else ""
    said = f"Shown: {cut}{len(seen):,} accounts with a requirement under both models."
    values = [*points["requirement"], *points["requirement_2"]]
    ends = [min(values), max(values)]
    diagonal = {"type": "scatter", "name": "equal", "mode": "lines", "x": ends, "y": ends}
    traces: list[Mapping[str, Any]] = []
    complete = pl.col("complete") & pl.col("complete_2")
    for name, colour, wanted in (("", _REQUIREMENT, complete), ("in", _WARNING, ~complete)):
        chosen = points.filter(wanted)
        data = {"x": chosen["requirement"].to_list(), "y": chosen["requirement_2"].to_list()}
        look = {"mode": "markers", "marker": {"color": colour, "size": 5, "opacity": 0.5}}
        ids = [label(account) for account in chosen["account_id"]]
        hover = {"text": ids, "hovertemplate": "%{text}<br>%{x:,.2f} and %{y:,.2f}"}
        traces.append({"type": "scatter", "name": f"{name}complete", **data, **look, **hover})
    traces.append({**diagonal, "line": {"color": "#1f2933", "width": 1}, "hoverinfo": "skip"})
    x_axis, y_axis = (_axis(view, label(model), log=True) for model in view.models[:2])
    return note(said) + chart("models", traces, height=560, xaxis=x_axis, yaxis=y_axis)


def _what_failed(view: _View) -> str:
    failures = view.run.failures
    incomplete = view.accounts.filter(~pl.col("complete"))["account_id"].n_unique()
    if failures.is_empty() and not incomplete:
        return note("Nothing failed: every row was used and every account is complete.")
    reasons = failures.group_by("reason").agg(failures=pl.len())
    ranked = reasons.sort(["failures", "reason"], descending=[True, False])
    first = failures.head(_FAILURES).select("source", "row", "field", "value", "reason")
    said = f"Failures: {len(failures):,}. Incomplete accounts: {incomplete:,}."
    listed = f"The first {len(first)} of {len(failures):,} failures:"
    return note(said) + table(ranked.head(_FAILURES)) + note(listed) + table(first)


def _stacked(
    view: _View, rows: pl.DataFrame, name: str, parts: Sequence[tuple[str, str]] = _PARTS
) -> str:
    """Bars of requirement + offset = standalone by `label`; hatched where not `complete`."""
    places, labels = list(range(len(rows))), [label(text) for text in rows["label"]]
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
    return chart(name, traces, height=height, barmode="relative", xaxis=_axis(view), yaxis=axis)


def _axis(view: _View, name: str = "", log: bool = False) -> dict[str, Any]:
    title = ", ".join(part for part in (name, label(view.currency)) if part)
    return {"title": {"text": title}, "type": "log" if log else "linear"}
