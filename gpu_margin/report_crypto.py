"""Section of the report about crypto venues: totals by level, and who is nearest to liquidation.

A section is the HTML of its content, None where the run has nothing for it.
"""

from __future__ import annotations

from functools import partial
from html import escape

import polars as pl

from gpu_margin.report_page import amounts, note, panels, table, terms
from gpu_margin.report_view import View, part_of

_TOP = 20


def crypto(view: View) -> str | None:
    """What the rulebooks of crypto venues require."""
    if view.run.crypto is None:
        return None
    known = pl.col("requirement").is_not_null()
    totals = view.run.crypto.group_by("model", "level", maintain_order=True).agg(
        pl.len().alias("netting_sets"),
        (~known).sum().alias("without_figure"),
        pl.col("requirement", "mark_to_market", "cash").sum(),
        (pl.col("margin_value") < 0.0).sum().alias("below_requirement"),
    )
    present = view.run.crypto["model"].unique(maintain_order=True).to_list()
    return table(totals) + panels(present, partial(_model, view))


def crypto_cards(view: View) -> str:
    """Headline numbers of each of these models: sums over netting sets that have a margin."""
    found = view.run.crypto
    if found is None:
        return ""
    return "".join(_card(view, *named) for named in found.group_by("model", maintain_order=True))


def _card(view: View, model: tuple[object, ...], mine: pl.DataFrame) -> str:
    levels = mine.group_by("level", maintain_order=True).agg(
        pl.col("requirement").sum(),
        pl.len().alias("sets"),
        (pl.col("margin_value") < 0.0).sum().alias("below"),
    )
    said = amounts(levels["requirement"].to_list())
    bigs = "".join(
        f'<p>total {escape(level)}</p><p class="big">{amount} '
        f"<small>{escape(view.currency)}</small></p>"
        for level, amount in zip(levels["level"], said, strict=True)
    )
    facts = {
        "netting_sets": f"{levels['sets'][0]:,}",
        "below_maintenance": f"{levels['below'][-1]:,}",
    }
    return f'<div class="card"><h3>{escape(str(model[0]))}</h3>{bigs}{terms(facts)}</div>'


def _model(view: View, model: str, name: str) -> str:
    """A model's numbers and the netting sets with the least margin value."""
    facts = part_of(part_of(view.run.manifest, "on_files"), model)
    told = " · ".join(str(facts[key]) for key in ("kind", "table", "date") if key in facts)
    mine = view.run.crypto.filter(pl.col("model") == model)  # type: ignore[union-attr]
    lowest = mine.filter(pl.col("level") == "maintenance").sort("margin_value", nulls_last=True)
    shown = lowest.drop("model", "level").head(_TOP)
    if shown.is_empty():
        return note("No netting set.")
    return note(f"{told}. The least maintenance margin values:") + table(shown)
