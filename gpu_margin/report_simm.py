"""Section of the report about SIMM: totals of each side, by risk class, and the largest portfolios.

A section is the HTML of its content, None where the run has nothing for it.
"""

from __future__ import annotations

from functools import partial
from html import escape

import polars as pl

from gpu_margin.models.simm.kinds import RISK_CLASSES, SIDES
from gpu_margin.models.simm.result import ADDITIONAL, ALL, SCHEDULE
from gpu_margin.report_page import amounts, note, panels, table, terms
from gpu_margin.report_view import View, part_of, waterfall

_TOP = 20
# A step of less than this share of the total is rounding.
_ROUNDING = 1e-9
# Risk classes whose names are too long for a step.
_WORDS = {
    "InterestRate": "Interest<br>rate",
    "CreditQualifying": "Credit<br>qualifying",
    "CreditNonQualifying": "Credit non-<br>qualifying",
}
_SIDES = {name.lower(): name for name in SIDES}

Step = tuple[str, float, bool]


def simm_cards(view: View) -> str:
    """Headline numbers of each SIMM model: complete portfolios, and beside them the others."""
    if view.run.simm is None:
        return ""
    return "".join(_card(view, model) for model in _models(view))


def simm(view: View) -> str | None:
    """What SIMM requires of portfolios of a CRIF."""
    if view.run.simm is None:
        return None
    by = ["model", "level", "complete"]
    totals = _rows(view).group_by(by).agg(*_SUMS)
    place = {model: number for number, model in enumerate(_models(view))}
    order = pl.col("model").replace_strict(place, return_dtype=pl.Int64)
    listed = totals.sort(order, pl.col("complete").not_(), "level").rename({"level": "side"})
    return table(listed) + panels(_models(view), partial(_model, view))


_SUMS = (
    pl.len().alias("portfolios"),
    pl.col("requirement").null_count().alias("without_figure"),
    pl.col("requirement").sum(),
)


def _models(view: View) -> list[str]:
    """SIMM models in the order of the configuration."""
    present = _rows(view)["model"].unique(maintain_order=True).to_list()
    configured = [*part_of(part_of(view.run.manifest, "config"), "models"), *present]
    return sorted(present, key=configured.index)


def _rows(view: View) -> pl.DataFrame:
    """The rows of margins of SIMM models."""
    return view.run.margins.filter(pl.col("level").is_in(list(_SIDES)))


def _card(view: View, model: str) -> str:
    mine = _rows(view).filter(pl.col("model") == model)
    whole = mine.filter(pl.col("complete") & pl.col("requirement").is_not_null())
    sides = [side for side in _SIDES if side in mine["level"]]
    sums = dict(whole.group_by("level").agg(pl.col("requirement").sum()).iter_rows())
    facts = part_of(part_of(view.run.manifest, "on_files"), model)
    said = amounts([sums.get(side, 0.0) for side in sides])
    more = {
        "complete_portfolios": f"{whole['account_id'].n_unique():,}",
        "incomplete_portfolios, in no total": (
            f"{mine.filter(~pl.col('complete'))['account_id'].n_unique():,}"
        ),
        "SIMM version": facts.get("version", "-"),
        "in force since": facts.get("effective_date", "-"),
    }
    bigs = "".join(
        f'<p>total {side}</p><p class="big">{amount} <small>{escape(view.currency)}</small></p>'
        for side, amount in zip(sides, said, strict=True)
    )
    return f'<div class="card"><h3>{escape(model)}</h3>{bigs}{terms(more)}</div>'


def _model(view: View, model: str, name: str) -> str:
    mine = _rows(view).filter((pl.col("model") == model) & pl.col("requirement").is_not_null())
    if mine.is_empty():
        return note("No portfolio has a figure.")
    drawn = []
    for level, side in _SIDES.items():
        whole = mine.filter(pl.col("complete") & (pl.col("level") == level))
        if len(whole):
            steps = _steps(view, model, side, whole["account_id"])
            chart = waterfall(view, steps, f"simm-{name}-{level}")
            drawn.append(note(f"{side}, complete portfolios by risk class:") + chart)
    return "".join(drawn) + note("The largest portfolios:") + table(_largest(mine))


def _largest(mine: pl.DataFrame) -> pl.DataFrame:
    """Those with the largest margin on either side, ties by id; a column for each side."""
    of_level = [
        pl.col("requirement").filter(pl.col("level") == level).first().alias(level)
        for level in _SIDES
        if level in mine["level"]
    ]
    by_portfolio = mine.group_by("account_id").agg(*of_level, pl.col("complete").first())
    larger = pl.max_horizontal(*(column.meta.output_name() for column in of_level))
    ranked = by_portfolio.sort([larger, "account_id"], descending=[True, False]).head(_TOP)
    return ranked.rename({"account_id": "portfolio_id"})


def _steps(view: View, model: str, side: str, portfolios: pl.Series) -> list[Step]:
    """From risk classes, each over all portfolios, to the margin."""
    assert view.run.simm is not None
    levels = view.run.simm.filter(
        (pl.col("model") == model)
        & (pl.col("side") == side)
        & pl.col("product_class").is_in([ALL, SCHEDULE])
        & pl.col("margin_type").is_in([ALL, ADDITIONAL])
        & (pl.col("bucket") == ALL)
        & pl.col("portfolio_id").is_in(portfolios.implode())
    )
    found = levels.group_by("product_class", "risk_class", "margin_type").agg(
        pl.col("initial_margin").sum()
    )
    sums = {row[:3]: float(row[3]) for row in found.iter_rows()}
    total = sums.get((ALL, ALL, ALL), 0.0)
    parts = {_WORDS.get(name, name): sums.get((ALL, name, ALL), 0.0) for name in RISK_CLASSES}
    rest = {
        "add-ons": sums.get((ALL, ALL, ADDITIONAL), 0.0),
        "Schedule IM": sums.get((SCHEDULE, ALL, ALL), 0.0),
    }
    offset = total - sum(parts.values()) - sum(rest.values())
    shown = {**parts, "offset between<br>risk classes": offset, **rest}
    seen = {name: amount for name, amount in shown.items() if abs(amount) > _ROUNDING * total}
    return [*((name, amount, False) for name, amount in seen.items()), ("margin", total, True)]
