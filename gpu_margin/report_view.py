"""What the sections of the report share: the run as they read it, and charts of several of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from gpu_margin.report_page import amounts, chart, label
from gpu_margin.result import Run

SUMS = ("requirement", "standalone", "offset")
FIGURES = (*SUMS, "offset_ratio")
RATIO = (pl.col("offset") / pl.col("standalone")).fill_nan(0.0)
REQUIREMENT, OFFSET, WARNING = "#1f5a92", "#a9cbe6", "#d55e00"
PARTS = (("requirement", REQUIREMENT), ("offset", OFFSET))
# Okabe and Ito's colours, which colour-blind readers tell apart.
_COLOURS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#d55e00", "#000000")


@dataclass(frozen=True)
class View:
    """What every section reads: `accounts` are the rows of margins at level initial of models on
    positions; models on files have sections of their own.

    `totals` has two rows per model: of its complete accounts, and apart from them of the rest.
    """

    run: Run
    accounts: pl.DataFrame
    totals: pl.DataFrame
    models: tuple[str, ...]
    currency: str

    def of(self, model: str) -> pl.DataFrame:
        """The accounts under one model."""
        return self.accounts.filter(pl.col("model") == model)

    def complete(self, model: str) -> pl.DataFrame:
        """The accounts that are complete and have a figure under one model."""
        return self.of(model).filter(pl.col("complete") & pl.col("requirement").is_not_null())

    def total(self, model: str, complete: bool = True) -> dict[str, Any]:
        """The model's row of totals."""
        wanted = (pl.col("model") == model) & (pl.col("complete") == complete)
        return self.totals.row(by_predicate=wanted, named=True)


def view_of(run: Run) -> View:
    """The run as the sections read it, its models in the order of the configuration."""
    on_files = list(part_of(run.manifest, "on_files"))
    ours = (pl.col("level") == "initial") & ~pl.col("model").is_in(on_files)
    accounts = run.margins.filter(ours)
    present = accounts["model"].unique(maintain_order=True).to_list()
    config = part_of(run.manifest, "config")
    models = tuple(sorted(present, key=[*part_of(config, "models"), *present].index))
    currency = str(config.get("currency", ""))
    return View(run, accounts, _totals(accounts, models), models, currency)


def part_of(source: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A table of the manifest, empty where it is absent or something else."""
    value = source.get(key)
    return value if isinstance(value, Mapping) else {}


def _totals(accounts: pl.DataFrame, models: Sequence[str]) -> pl.DataFrame:
    """Sums by model and completeness; zeros where a model has no such accounts."""
    sums = accounts.group_by("model", "complete").agg(
        pl.col(SUMS).sum(),
        accounts=pl.len(),
        without_figure=pl.col("requirement").null_count(),
    )
    keys = [(model, complete) for model in models for complete in (True, False)]
    every = pl.DataFrame(keys, {"model": pl.String, "complete": pl.Boolean}, orient="row")
    joined = every.join(sums, on=["model", "complete"], how="left", maintain_order="left")
    filled = joined.with_columns(pl.exclude("model", "complete").fill_null(0))
    return filled.with_columns(offset_ratio=RATIO)


def axis(view: View, name: str = "", log: bool = False) -> dict[str, Any]:
    """An axis of amounts."""
    title = ", ".join(part for part in (name, label(view.currency)) if part)
    return {"title": {"text": title}, "type": "log" if log else "linear"}


def bar_chart(
    view: View, rows: pl.DataFrame, name: str, parts: Sequence[tuple[str, str]] = PARTS
) -> str:
    """A bar per row, of its `parts` (columns and their colours) one after another.

    A bar is named by the row's `label` and hatched where the row is not `complete`.
    """
    places, labels = list(range(len(rows))), [label(text) for text in rows["label"]]
    shapes = ["" if complete else "/" for complete in rows["complete"]]
    hatch = {"shape": shapes, "fillmode": "overlay", "fgcolor": WARNING}
    traces: list[Mapping[str, Any]] = []
    for column, colour in parts:
        word = column.replace("_", " ")
        data = {"x": rows[column].to_list(), "y": places, "orientation": "h"}
        look = {"marker": {"color": colour, "pattern": hatch}, "customdata": labels}
        hover = {"hovertemplate": f"%{{customdata}}<br>{word} %{{x:,.2f}}<extra></extra>"}
        traces.append({"type": "bar", "name": word, **data, **look, **hover})
    names = {"tickvals": places, "ticktext": labels, "autorange": "reversed"}
    height = 110 + 26 * len(rows)
    return chart(name, traces, height=height, barmode="relative", xaxis=axis(view), yaxis=names)


def waterfall(view: View, steps: Sequence[tuple[str, float, bool]], name: str) -> str:
    """Steps of (words, amount, whether it is where the steps so far have led) one after another.

    The words stand in the page as they are.
    """
    values = amounts([amount for _, amount, _ in steps])
    measures = ["total" if reached else "relative" for _, _, reached in steps]
    data = {
        "x": [f"{words}<br>{value}" for (words, _, _), value in zip(steps, values, strict=True)],
        "y": [amount for _, amount, _ in steps],
        "measure": ["absolute", *measures[1:]],
    }
    look = {
        "totals_marker_color": REQUIREMENT,
        "decreasing_marker_color": OFFSET,
        "increasing_marker_color": WARNING,
    }
    trace = {"type": "waterfall", **data, **look, "hoverinfo": "skip"}
    # No legend above, and words that stand upright.
    layout = {"margin": {"l": 10, "r": 30, "t": 10, "b": 10}, "xaxis": {"tickangle": 0}}
    return chart(name, [trace], height=300, yaxis=axis(view), **layout)


def outline(
    name: str, number: int, edges: Sequence[float], counts: Sequence[int], spans: Sequence[str]
) -> dict[str, Any]:
    """The stepped outline of a histogram, for `chart`; `number` says in which colour.

    `counts` and `spans` (what each says of itself) have one fewer than `edges`.
    """
    # The left edge comes twice and the last count is nothing: a closed outline.
    data = {"x": [edges[0], *edges], "y": [0, *counts, 0]}
    colour = _COLOURS[number % len(_COLOURS)]
    look = {"mode": "lines", "line_shape": "hv", "line_color": colour, "fill": "tozeroy"}
    hover = {"text": ["", *spans, ""], "hovertemplate": "%{text}: %{y:,} accounts"}
    return {"type": "scatter", "name": label(name), **data, **look, **hover}


def heat_map(
    names: Sequence[str],
    values: Sequence[Sequence[float | None]],
    said: Sequence[Sequence[str]],
    name: str,
    form: str,
) -> str:
    """A square of values from -1 to 1, each with what it says of itself; None leaves a hole.

    `form` is how values are written; in a large square they are not.
    """
    size = len(names)
    data = {"z": values, "customdata": said, "hoverongaps": False}
    look = {"zmin": -1, "zmax": 1, "colorscale": "RdBu", "showscale": size > 12}
    text = {"texttemplate": f"%{{z:{form}}}"} if size <= 12 else {}
    trace = {"type": "heatmap", **data, **look, **text}
    trace["hovertemplate"] = "%{customdata}<extra></extra>"
    words = [label(one) for one in names]
    lines = {"showgrid": False, "zeroline": False}
    ticks = {"tickvals": list(range(size)), "ticktext": words, "constrain": "domain", **lines}
    y_axis = {**ticks, "autorange": "reversed", "scaleanchor": "x"}
    return chart(name, [trace], height=min(260 + 40 * size, 900), xaxis=ticks, yaxis=y_axis)
