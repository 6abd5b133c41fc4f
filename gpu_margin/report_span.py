"""Section of the report about SPAN: totals by level, and where margin comes from.

A section is the HTML of its content, None where the run has nothing for it.
"""

from __future__ import annotations

from functools import partial
from html import escape

import polars as pl

from gpu_margin.report_page import amounts, note, panels, table, terms
from gpu_margin.report_view import View, part_of

_TOP = 20
_SUMS = (
    *("scan_risk", "intra_spread_charge", "delivery_charge", "inter_spread_credit"),
    *("risk", "net_option_value"),
)


def span(view: View) -> str | None:
    """What SPAN requires, by model and level, then by combined commodity."""
    if view.run.span is None:
        return None
    totals = view.run.span.group_by("model", "level", maintain_order=True).agg(
        pl.col("account_id").n_unique().alias("accounts"), pl.col(_SUMS).sum()
    )
    present = view.run.span["model"].unique(maintain_order=True).to_list()
    return table(totals) + panels(present, partial(_model, view))


def span_cards(view: View) -> str:
    """Headline numbers of each SPAN model: sums over accounts that have a margin."""
    if view.run.span is None:
        return ""
    return "".join(_card(view, model) for model in _models(view))


def _models(view: View) -> list[str]:
    """Also those of which no account has a row."""
    known = part_of(view.run.manifest, "on_files")
    return [name for name, one in known.items() if one.get("rulebook") == "SPAN"]


def _card(view: View, model: str) -> str:
    mine = view.run.margins.filter(pl.col("model") == model)
    levels = mine.group_by("level", maintain_order=True).agg(
        pl.col("requirement").sum(),
        pl.col("requirement").is_not_null().sum().alias("accounts"),
        pl.col("requirement").is_null().sum().alias("without_figure"),
    )
    said = amounts(levels["requirement"].to_list())
    bigs = "".join(
        f'<p>total {escape(str(level))}</p><p class="big">{amount} '
        f"<small>{escape(view.currency)}</small></p>"
        for level, amount in zip(levels["level"].to_list(), said, strict=True)
    )
    counts = {
        name: max(levels[name].to_list(), default=0) for name in ("accounts", "without_figure")
    }
    facts = {name: f"{count:,}" for name, count in counts.items()}
    return f'<div class="card"><h3>{escape(model)}</h3>{bigs}{terms(facts)}</div>'


def _model(view: View, model: str, name: str) -> str:
    """A model's file, and the combined commodities with the most maintenance risk."""
    facts = part_of(part_of(view.run.manifest, "on_files"), model)
    keys = ("file_clearing", "file_date", "file_format", "account_class", "account_type")
    told = " · ".join(str(facts[key]) for key in keys if facts.get(key))
    mine = view.run.span.filter(pl.col("model") == model)  # type: ignore[union-attr]
    largest = (
        mine.filter(pl.col("level") == "maintenance")
        .group_by("combined_commodity", "currency", maintain_order=True)
        .agg(pl.len().alias("accounts"), pl.col(_SUMS).sum())
        .sort(["risk", "combined_commodity"], descending=[True, False])
        .head(_TOP)
    )
    return note(f"{told}. The combined commodities with the most risk:") + table(largest)
