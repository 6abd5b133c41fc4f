"""A market whose scenarios a test chooses, and what rows require in it by plain loops."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from math import ceil, fsum
from typing import Any

import numpy as np
import polars as pl

from gpu_margin import backend as backends
from gpu_margin import models
from gpu_margin.backend import Backend
from gpu_margin.market import History, Instruments, Market
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Portfolio, Rows

Floats = np.ndarray[Any, Any]


def market(profits: Any, groups: str) -> Market:
    """Spot instruments A, B, ... with these profits of one contract [instrument, scenario].

    Each has a factor of its own and the product group of its letter in `groups`.
    """
    profits = np.asarray(profits, dtype=np.float64)
    count, days = profits.shape
    ids = [chr(ord("A") + number) for number in range(count)]
    names = sorted(set(groups))
    no = np.zeros(count, dtype=bool)
    zero, one = np.zeros(count), np.ones(count)
    instruments = Instruments(
        ids=pl.Series(ids),
        option=no,
        call=no,
        factor=np.arange(count),
        group=np.array([names.index(letter) for letter in groups]),
        scale=1000.0 * one,
        level=one,
        strike=one,
        volatility=zero,
        time=zero,
        rate=zero,
    )
    prices = np.cumprod(np.vstack([one, 1.0 + profits.T / 1000.0]), axis=0)
    last = date(2024, 3, 1)
    dates = tuple(last - timedelta(days=days - day) for day in range(days + 1))
    history = History(dates, tuple(ids), prices)
    return Market(last, "USD", instruments, pl.Series(names), history)


def prepared(market: Market, kind: str, device: str | Backend = "numpy", **more: Any) -> Prepared:
    """A model over all scenarios of the market."""
    rulebook = models.load(kind)
    count = len(market.history.dates) - 1
    if kind == "simulation":
        more = {"scenarios": {"kind": "historical", "lookback": count}, **more}
    else:
        more = {"confidence": 0.99, "estimator": {"kind": "sample"}, "lookback": count, **more}
    parameters = rulebook.Parameters.model_validate(more)
    backend = backends.load(device) if isinstance(device, str) else device
    rulebook.check(parameters, market)
    return rulebook.prepare(parameters, market, backend)


def es(confidence: float, tail: str = "discrete") -> dict[str, Any]:
    return {"measure": {"kind": "es", "confidence": confidence, "tail": tail}}


def var(confidence: float, tail: str = "discrete") -> dict[str, Any]:
    return {"measure": {"kind": "var", "confidence": confidence, "tail": tail}}


def rows_of(*held: dict[int, float]) -> Rows:
    """Rows of net positions: instrument code -> quantity."""
    entries = [sorted(row.items()) for row in held]
    flat = [entry for row in entries for entry in row]
    return Rows(
        np.cumsum([0, *map(len, entries)]).astype(np.int64),
        np.array([code for code, _ in flat], dtype=np.int64),
        np.array([quantity for _, quantity in flat], dtype=np.float64),
    )


def portfolio_of(accounts: dict[str, dict[str, dict[int, float]]]) -> Portfolio:
    """Accounts -> netting sets -> instrument code -> quantity."""
    names = sorted(accounts)
    sets = [(code, name) for code, own in enumerate(names) for name in sorted(accounts[own])]
    rows = rows_of(*(accounts[names[code]][name] for code, name in sets))
    count = np.diff(rows.offsets)
    return Portfolio(
        accounts=pl.Series("account_id", names, dtype=pl.String),
        sets=pl.Series("netting_set", [name for _, name in sets], dtype=pl.String),
        set_account=np.array([code for code, _ in sets], dtype=np.int64),
        rows=rows,
        good=np.maximum(count, 1),
        bad=np.zeros_like(count),
    )


def held_in(rows: Rows) -> list[dict[int, float]]:
    """Rows as dicts: instrument code -> quantity."""
    bounds = zip(rows.offsets[:-1], rows.offsets[1:], strict=True)
    entries = list(zip(rows.column.tolist(), rows.value.tolist(), strict=True))
    return [dict(entries[first:last]) for first, last in bounds]


# ---------------------------------------------------------------- by plain loops


def ranked(profits: Floats, held: dict[int, float]) -> list[int]:
    """Scenarios by loss, worst first, the earlier first among equals."""
    losses = [
        fsum(-q * float(profits[code][s]) for code, q in held.items())
        for s in range(profits.shape[1])
    ]
    return sorted(range(len(losses)), key=lambda s: (-losses[s], s))


def weights_of(kind: str, confidence: float, count: int, smooth: bool) -> list[float]:
    """The weight of each loss, worst first; the triangle of the issue where it is smooth."""
    k = max(1, ceil(round((1.0 - confidence) * count, 9)))
    if kind == "es":
        return [1.0 / k] * k + [0.0] * (count - k)
    if not smooth:
        return [0.0] * (k - 1) + [1.0] + [0.0] * (count - k)
    h = min(k - 1, count - k, k // 2)
    height = [max(0, h + 1 - abs(rank - k)) for rank in range(1, count + 1)]
    return [part / sum(height) for part in height]


def shares(profits: Floats, held: dict[int, float], weights: Sequence[float]) -> dict[int, float]:
    """What each position loses in the tail, so weighted."""
    order = ranked(profits, held)
    tail = [(order[rank], weight) for rank, weight in enumerate(weights) if weight]
    return {
        code: fsum(-q * float(profits[code][s]) * weight for s, weight in tail)
        for code, q in held.items()
    }


def measured(profits: Floats, held: dict[int, float], weights: Sequence[float]) -> float:
    """The measure of the row's losses, at least 0."""
    return max(0.0, fsum(shares(profits, held, weights).values()))


def split(held: dict[int, float], groups: str) -> dict[str, dict[int, float]]:
    """The row's positions by group."""
    return {
        letter: {code: q for code, q in held.items() if groups[code] == letter}
        for letter in sorted({groups[code] for code in held})
    }


def capped(profits: Floats, held: dict[int, float], weights: Any, groups: str, c: float) -> float:
    """max(M, (1 - c) sum G + c M)."""
    together = measured(profits, held, weights)
    alone = [measured(profits, own, weights) for own in split(held, groups).values()]
    return max(together, (1.0 - c) * fsum(alone) + c * together)
