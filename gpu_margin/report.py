"""report.html: one self-contained page on which a risk manager reads a finished run.

Here is what the page shows, section by section; `report_page` is how it is made. Histograms and
rankings are made here, so that it hardly grows with the accounts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from gpu_margin.report_contributors import contributors
from gpu_margin.report_crypto import crypto, crypto_cards
from gpu_margin.report_netting import pairs_of_groups, venues
from gpu_margin.report_page import (
    amounts,
    chart,
    label,
    note,
    page,
    panels,
    section,
    table,
    terms,
)
from gpu_margin.report_simm import simm, simm_cards
from gpu_margin.report_solvency import account_steps, called, calls
from gpu_margin.report_span import span, span_cards
from gpu_margin.report_view import (
    FIGURES,
    PARTS,
    RATIO,
    REQUIREMENT,
    SUMS,
    WARNING,
    View,
    axis,
    bar_chart,
    heat_map,
    outline,
    part_of,
    view_of,
    waterfall,
)
from gpu_margin.result import Run

# Title, what it says in short, and what draws it: None where the run does not have it.
Section = tuple[str, str, Callable[[View], str | None]]

_TOP, _GROUPS, _FACTORS, _POINTS, _FAILURES = 20, 15, 60, 20_000, 100
_DECADES, _BINS_PER_DECADE = 12, 8


def render(run: Run) -> str:
    """The report of a finished run, as the text of one HTML page without outside references."""
    view = view_of(run)
    sections = [
        section(title, caption, found)
        for title, caption, draw in _sections(view)
        if (found := draw(view)) is not None
    ]
    return page(_header(view), sections)


def _sections(view: View) -> Sequence[Section]:
    """Without a model on positions, those that are not of positions."""
    only_files = not view.models and bool(part_of(view.run.manifest, "on_files"))
    return (*(() if only_files else _OF_POSITIONS), *_OF_ALL)


def _header(view: View) -> str:
    manifest = view.run.manifest
    backend, counts = part_of(manifest, "backend"), part_of(manifest, "counts")
    facts = {
        "valuation_date": part_of(manifest, "config").get("valuation_date", "-"),
        "currency": view.currency or "-",
        "computed": str(manifest.get("created", "-")).replace("T", " "),
        "time_taken": f"{sum(part_of(manifest, 'seconds').values()):,.1f} s",
        "backend": " · ".join(str(value) for value in backend.values()) or "-",
        "version": manifest.get("gpu_margin", "-"),
        **{name: f"{count:,}" for name, count in counts.items() if isinstance(count, int)},
    }
    cards = "".join(_card(view, model) for model in view.models)
    cards += simm_cards(view) + crypto_cards(view) + span_cards(view)
    lost = "".join(
        note(
            f"Backend {one['name']} failed in {one['stage']} ({one['error']}); "
            f"the run went on with {one['next']}."
        )
        for one in manifest.get("lost_backends", [])
    )
    unsure = "".join(
        note(f"Not confirmed by a public text, of {model}: {'; '.join(figures)}.")
        for model, figures in part_of(manifest, "unverified").items()
    )
    return (
        f"<header><h1>Initial margin</h1>{terms(facts)}{lost}{unsure}</header>"
        f'<div class="cards">{cards or note("No account has been computed.")}</div>'
    )


def _card(view: View, model: str) -> str:
    """Headline numbers of one model: complete accounts, and beside them the incomplete ones."""
    whole, rest = view.total(model), view.total(model, complete=False)
    requirement, standalone, offset = amounts([whole[name] for name in SUMS])
    facts = {
        "total_standalone": standalone,
        "total_offset": offset,
        "offset_ratio": f"{whole['offset_ratio']:.1%}",
        "complete_accounts": f"{whole['accounts']:,}",
        "incomplete_accounts, in no total": f"{rest['accounts']:,}",
        **called(view, model),
    }
    return (
        f'<div class="card"><h3>{escape(model)}</h3><p>total requirement</p>'
        f'<p class="big">{requirement} <small>{escape(view.currency)}</small></p>'
        f"{terms(facts)}</div>"
    )


def _by_model(view: View) -> str:
    mark = pl.when("complete").then(pl.lit("")).otherwise(pl.lit("incomplete: "))
    totals = view.totals.filter(pl.col("complete") | (pl.col("accounts") > 0))
    columns = totals.select("model", "accounts", "complete", "without_figure", *FIGURES)
    bars = bar_chart(view, totals.with_columns(label=mark + pl.col("model")), "by-model")
    return table(columns) + bars


def _distribution(view: View) -> str:
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


def _histogram(view: View, accounts: pl.DataFrame) -> str:
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
        counts, _ = np.histogram(powers.filter(pl.col("model") == model)["requirement"], edges)
        ten = (10.0**edges).tolist()
        traces.append(outline(model, number, ten, counts.tolist(), spans))
    x_axis, y_axis = axis(view, "requirement", log=True), {"title": {"text": "accounts"}}
    return chart("distribution", traces, height=380, xaxis=x_axis, yaxis=y_axis)


def _ranking(view: View, model: str, name: str, by: str) -> str:
    """The accounts with the most of one figure, as a table and as bars; ties by id."""
    above = view.of(model).filter(pl.col(by) > 0)
    top = above.sort([by, "account_id"], descending=[True, False]).head(_TOP)
    if top.is_empty():
        return note(f"No account has more than zero {by}.")
    ranked = top.with_row_index("#", 1).with_columns(label="account_id")
    columns = ranked.select("#", "account_id", *FIGURES, "worst_scenario", "complete")
    # Beside large offsets nobody could compare the requirements.
    parts = PARTS[::-1] if by == "offset" else PARTS[:1]
    bars = bar_chart(view, ranked, f"{by}-{name}", parts)
    return f'<div class="pair">{table(columns)}{bars}</div>'


def _groups(view: View, model: str, name: str) -> str:
    """The largest groups, all others in one row, and how standalone becomes requirement."""
    groups = view.run.group_totals.filter(pl.col("model") == model)
    if groups.is_empty():
        return note("This model tells no product groups apart.")
    ranked = groups.sort(["standalone", "product_group"], descending=[True, False])
    rest = pl.lit(f"{len(ranked) - _GROUPS} other groups")
    head = pl.int_range(pl.len()) < _GROUPS
    named = ranked.with_columns(label=pl.when(head).then("product_group").otherwise(rest))
    summed = named.group_by("label", maintain_order=True).agg(
        pl.col(SUMS).sum(),
        # An account is in several groups: their counts do not add up.
        accounts=pl.when(pl.len() == 1).then(pl.col("accounts").first()),
    )
    shown = summed.with_columns(product_group="label", offset_ratio=RATIO, complete=True)
    columns = shown.select("product_group", "accounts", *FIGURES)
    bars = bar_chart(view, shown, f"groups-{name}") + _steps(view, model, groups, name)
    return f'{table(columns)}<div class="halves">{bars}</div>'


def _steps(view: View, model: str, groups: pl.DataFrame, name: str) -> str:
    standalone, within = float(groups["standalone"].sum()), float(groups["requirement"].sum())
    requirement = float(view.total(model)["requirement"])
    steps = [
        ("standalone", standalone, True),
        ("offset within<br>groups", within - standalone, False),
        ("offset between<br>groups", requirement - within, False),
        ("requirement", requirement, True),
    ]
    return waterfall(view, steps, f"waterfall-{name}")


def _correlation(view: View) -> str:
    factors = view.run.correlation.factors
    names = factors[:_FACTORS]
    if not names:
        return note("No factor has returns to correlate.")
    size = len(names)
    matrix = view.run.correlation.matrix[:size, :size].round(4).tolist()
    words = [
        [
            f"{label(one)} and {label(other)}: {value:.3f}"
            for other, value in zip(names, line, strict=True)
        ]
        for one, line in zip(names, matrix, strict=True)
    ]
    said = f"The first {size} of {len(factors):,} factors." if len(factors) > size else ""
    return note(said) + heat_map(names, matrix, words, "factors", ".2f")


def _side_by_side(view: View) -> str:
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
    for name, colour, wanted in (("", REQUIREMENT, complete), ("in", WARNING, ~complete)):
        chosen = points.filter(wanted)
        data = {"x": chosen["requirement"].to_list(), "y": chosen["requirement_2"].to_list()}
        look = {"mode": "markers", "marker": {"color": colour, "size": 5, "opacity": 0.5}}
        ids = [label(account) for account in chosen["account_id"]]
        hover = {"text": ids, "hovertemplate": "%{text}<br>%{x:,.2f} and %{y:,.2f}"}
        traces.append({"type": "scatter", "name": f"{name}complete", **data, **look, **hover})
    traces.append({**diagonal, "line": {"color": "#1f2933", "width": 1}, "hoverinfo": "skip"})
    x_axis, y_axis = (axis(view, label(model), log=True) for model in view.models[:2])
    return note(said) + chart("models", traces, height=560, xaxis=x_axis, yaxis=y_axis)


def _what_failed(view: View) -> str:
    failures = view.run.failures
    margins = view.run.margins
    incomplete = margins.filter(~pl.col("complete"))["account_id"].n_unique()
    if failures.is_empty() and not incomplete:
        return note("Nothing failed: every row was used and every account is complete.")
    reasons = failures.group_by("reason").agg(failures=pl.len())
    ranked = reasons.sort(["failures", "reason"], descending=[True, False])
    first = failures.head(_FAILURES).select("source", "row", "field", "value", "reason")
    said = f"Failures: {len(failures):,}. Incomplete accounts: {incomplete:,}."
    listed = f"The first {len(first)} of {len(failures):,} failures:"
    return note(said) + table(ranked.head(_FAILURES)) + note(listed) + table(first)


def _largest(view: View) -> str:
    return panels(view.models, partial(_ranking, view, by="requirement"))


def _offsets(view: View) -> str:
    return panels(view.models, partial(_ranking, view, by="offset"))


def _product_groups(view: View) -> str:
    return panels(view.models, partial(_groups, view))


_OF_POSITIONS: tuple[Section, ...] = (
    (
        "Total requirement and offset",
        "Standalone is the sum of what each position would require alone; the offset is what "
        "holding them together saves: requirement + offset = standalone. Accounts with a bad row "
        "are incomplete: their figures stand apart, hatched, and are in no total.",
        _by_model,
    ),
    (
        "Calls and deficits",
        "What accounts hold against what they require. Below the requirement an account is called "
        "for more, below the maintenance requirement it is up for liquidation. Utilisation is "
        "requirement / collateral.",
        calls,
    ),
    (
        "From positions to a call",
        "One account step by step: the one with the largest call or, where there is none, with "
        "the largest requirement.",
        account_steps,
    ),
    (
        "Distribution of requirements",
        "How many complete accounts have a requirement of which size, on a logarithmic scale.",
        _distribution,
    ),
    (
        "Largest accounts",
        "By requirement; incomplete accounts are hatched. The worst scenario is the one that costs "
        "the account most, where the model has scenarios.",
        _largest,
    ),
    (
        "Largest offsets",
        "The accounts whose margin leans most on correlations: look here first when these may "
        "break.",
        _offsets,
    ),
    (
        "Largest contributors",
        "Which instruments the requirements come from. Contributions add up to the requirement: a "
        "negative one is a hedge, which lowers it. Complete accounts only.",
        contributors,
    ),
    (
        "Product groups",
        "What positions offset within each product group, and what the groups of an account "
        "offset between them on the way from standalone to requirement. Complete accounts only.",
        _product_groups,
    ),
    (
        "Offset by pair of groups",
        "What two product groups save each other: what each requires alone, less what both require "
        "as one. Of the complete accounts whose groups offset most.",
        pairs_of_groups,
    ),
    (
        "Netting between venues",
        "What owners save where an agreement nets their accounts at several venues: apart is the "
        "sum of what the venues require, as one what the merged book does.",
        venues,
    ),
    (
        "Correlation of factors",
        "Of daily returns. Near 1, a long and a short position offset each other; near -1, two "
        "positions of the same sign do.",
        _correlation,
    ),
    (
        "Models side by side",
        "Each account's requirement under the first two models; on the line they agree.",
        _side_by_side,
    ),
)
_OF_ALL: tuple[Section, ...] = (
    (
        "Margin of sensitivities",
        "SIMM and Schedule IM of the portfolios of a CRIF: margin to be called and to be posted. "
        "Portfolios with a bad row are incomplete and stand apart in the totals. SIMM is ISDA's; "
        "commercial use needs its licence.",
        simm,
    ),
    (
        "Margin on crypto venues",
        "Portfolio margin of netting sets (subaccounts) by the venues' rulebooks. A margin value "
        "is mark-to-market and cash less the requirement; where that at maintenance margin is "
        "negative a set may be liquidated.",
        crypto,
    ),
    (
        "SPAN margin",
        "By an exchange's risk parameter file: scan risk, charges and credits of spreads. Sums "
        "over accounts, in margin currency; option values are netted in each account, not here.",
        span,
    ),
    ("What failed", "What could not be used, and why. The rest was computed.", _what_failed),
)
