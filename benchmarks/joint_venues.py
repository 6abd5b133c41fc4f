"""What crypto venues' rulebooks ask for the books of `joint_study`: their own numbers, per coin.

No venue offsets coins, so that every coin is a netting set of its own, and a book requires the sum
of its initial margins. Feeds are the market's closes as spot, forward and mark, without rates.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import gpu_margin
from gpu_margin.failures import GpuMarginError
from gpu_margin.market import Market

Floats = NDArray[np.float64]

VENUES = ("derive_pm2", "deribit_pm", "okx_pm")
_NOTES: dict[str, str] = {}


def requirements(market: Market, held: list[Floats]) -> dict[str, Floats]:
    """[book] initial margin by rulebook; one that cannot margin a book has NaN, one that is not
    there is left out. `held` are quantities [instrument] of the books."""
    ask = getattr(gpu_margin, "crypto", None)
    if ask is None:
        return {}
    found = {}
    positions = _positions(market, held)
    for venue in VENUES:
        try:
            run = ask(venue, feeds(market), positions, backend="numpy")
        except (GpuMarginError, ImportError) as error:
            _NOTES.setdefault(venue, f"`{venue}` is left out: {error}.")
            continue
        found[venue] = _by_book(run.margins, len(held))
        for failure in run.failures["reason"].unique().sort().to_list():
            _NOTES.setdefault(f"{venue} {failure}", f"`{venue}` has no figure where: {failure}.")
    return found


def notes() -> list[str]:
    """What has been left out, and why."""
    return sorted(_NOTES.values())


def feeds(market: Market) -> dict[str, Any]:
    """The market as a document of feeds."""
    i, coins = market.instruments, market.history.factors
    now = datetime.combine(market.valuation_date, datetime.min.time(), UTC)
    expiry = (now + timedelta(days=30)).isoformat().replace("+00:00", "Z")
    spot = dict(zip(coins, market.history.prices[-1].tolist(), strict=True))
    instruments = []
    for code, name in enumerate(i.ids.to_list()):
        said = {"instrument_id": name, "underlying": coins[int(i.factor[code])]}
        if i.option[code]:
            said |= {"kind": "option", "expiry": expiry, "strike": float(i.strike[code])}
            said |= {"right": "call" if i.call[code] else "put"}
            said |= {"volatility": float(i.volatility[code])}
        else:
            said |= {"kind": "perpetual", "price": float(i.level[code]), "settlement": "USDC"}
        instruments.append(said)
    underlyings = {
        coin: {"spot": price, "expiries": [{"expiry": expiry, "forward": price}]}
        for coin, price in spot.items()
    }
    return {
        "time": now.isoformat().replace("+00:00", "Z"),
        "stable": {"price": 1.0},
        "underlyings": underlyings,
        "instruments": instruments,
    }


def _positions(market: Market, held: list[Floats]) -> pl.DataFrame:
    coins = market.history.factors
    rows = [
        {
            "account_id": f"{number:03d}",
            "netting_set": coins[int(market.instruments.factor[code])],
            "instrument_id": market.instruments.ids[int(code)],
            "quantity": float(quantity[code]),
        }
        for number, quantity in enumerate(held)
        for code in np.flatnonzero(quantity)
    ]
    return pl.DataFrame(rows)


def _by_book(margins: pl.DataFrame, count: int) -> Floats:
    """[book] the sum of its sets' initial requirements, NaN where one has none."""
    initial = margins.filter(pl.col("level") == "initial")
    found = np.full(count, np.nan)
    for (account,), own in initial.group_by("account_id"):
        amounts = own["requirement"]
        found[int(str(account))] = np.nan if amounts.has_nulls() else float(amounts.sum())
    return found
