"""How an account, and the book as a whole, stand: plain values, as a face shows them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpu_margin.collateral import STATUSES
from gpu_margin.tracking.coverage import Coverage
from gpu_margin.tracking.state import State

Figures = dict[str, Any]


def account_view(state: State, coverages: list[Coverage], account: int) -> Figures:
    """An account by code, under all models; None is what is not known.

    `requirement` is what positions require, `components` add up to it; the levels are what counts,
    after netting between venues. Of collateral and status nothing is known where the inputs say
    nothing of collateral.
    """
    members = state.members
    sets = members.sets_of_one(account)
    complete = not any(state.lost[one] or state.lost_collateral[one] for one in sets)
    models: dict[str, Figures] = {}
    parts: list[Figures] = [{"netting_set": members.names[one], "models": {}} for one in sets]
    worst = -1
    for coverage in coverages:
        name = coverage.model.name
        own = [coverage.sets.numbers(one) for one in sets]
        for part, figures in zip(parts, own, strict=True):
            part["models"][name] = _figures(state, coverage, figures, [figures])
        total = coverage.accounts.numbers(account)
        models[name] = _figures(state, coverage, total, own)
        complete &= all(math.isfinite(one["own"]) for one in own)
        worst = max(worst, int(total["status"])) if state.with_collateral else -1
    first = models[coverages[0].model.name]
    return {
        "account_id": members.accounts[account],
        "complete": complete,
        "status": None if worst < 0 else STATUSES[worst],
        "collateral_value": first["collateral_value"],
        "models": models,
        "netting_sets": parts,
    }


def _figures(
    state: State, coverage: Coverage, standing: dict[str, float], sets: list[dict[str, float]]
) -> Figures:
    """The figures of an account or set, which has these sets."""
    required = [one["own"] for one in sets if math.isfinite(one["own"])]
    requirement, cap = 0.0, 0.0
    for one in sets:
        if math.isfinite(one["own"]):
            requirement, cap = requirement + one["own"], cap + one["cap"]
    components = {coverage.component: requirement - cap}
    if coverage.prepared.offsets is not None:
        components["offset_cap"] = cap
    known = state.with_collateral
    share = coverage.model.options.maintenance
    status = int(standing["status"]) if known else -1
    initial = standing["initial"] if known else requirement
    maintenance = standing["maintenance"] if known else share * requirement
    return {
        "levels": {"initial": _number(initial), "maintenance": _number(maintenance)},
        "components": components,
        "requirement": requirement if required else None,
        "collateral_value": _number(standing["value"]) if known else None,
        "call": _number(standing["call"]) if known else None,
        "excess": _number(standing["excess"]) if known else None,
        "utilisation": _number(standing["utilisation"]) if known else None,
        "status": None if status < 0 else STATUSES[status],
    }


def summary_view(state: State, coverages: list[Coverage]) -> Figures:
    """Totals by model, and how many there are of everything."""
    members = state.members
    models: dict[str, Figures] = {}
    for coverage in coverages:
        own, accounts = coverage.own, coverage.accounts
        found: Figures = {"requirement": float(np.nansum(own))}
        if state.with_collateral:
            found["initial"] = float(np.nansum(accounts["initial"]))
            found["call"] = float(np.nansum(accounts["call"]))
            status = accounts["status"].astype(np.int64)
            count = np.bincount(status + 1, minlength=len(STATUSES) + 1).tolist()
            found["statuses"] = dict(zip(("unknown", *STATUSES), count, strict=True))
            found["collateral_value"] = float(np.nansum(accounts["value"]))
        models[coverage.model.name] = found
    return {
        "accounts": len(members.accounts),
        "netting_sets": len(members),
        "positions": state.positions.entries,
        "instruments": len(state.loaded.market.instruments),
        "marks": len(state.marks),
        "currency": state.loaded.market.currency,
        "valuation_date": state.loaded.market.valuation_date.isoformat(),
        "models": models,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
