"""Derive's portfolio margin as a practitioner has it: in plain Python, and in NumPy and SciPy.

The plain one is the oracle of the tests, which knows nothing of this package. The other values all
options in all scenarios once and then multiplies sparse positions into that grid, expiry by expiry.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import ndtr

from gpu_margin.crypto_book import COIN, OPTION, PERPETUAL, CryptoBook, CryptoMarket
from gpu_margin.models.derive_pm2 import Figures

Floats = NDArray[np.float64]
DAY, YEAR = 86_400.0, 365 * 86_400.0


def oracle() -> Any:
    """The tests' plain calculation; `ImportError` without the tests."""
    folder = str(Path(__file__).resolve().parents[1] / "tests")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("crypto_oracle")


def oracle_figures(figures: Figures) -> dict[str, Any]:
    """Figures of one market as the oracle names them."""
    oracle()
    names = importlib.import_module("crypto_oracle_figures").PM2
    return {
        **{theirs: getattr(figures, ours) for ours, theirs in names.items()},
        "floor_seconds": figures.dte_floor * DAY,
        "scenarios": [
            {"spot": one.spot, "direction": one.volatility, "damping": one.dampening}
            for one in figures.ordered
        ],
    }


def oracle_market(market: CryptoMarket) -> dict[str, Any]:
    """A market of one underlying as the oracle has it."""
    i, expiries = market.instruments, market.expiries
    perpetual = int(np.flatnonzero(i.kind == PERPETUAL)[0])
    fields = (
        *("seconds", "forward", "fixed", "forward_confidence"),
        *("rate", "rate_confidence", "volatility_confidence"),
    )
    return {
        "spot": float(market.spot[0]),
        "spot_confidence": float(market.spot_confidence[0]),
        "stable": market.stable,
        "perpetual": {
            "price": float(i.price[perpetual]),
            "confidence": float(i.confidence[perpetual]),
        },
        "expiries": [
            {field: float(getattr(expiries, field)[place]) for field in fields}
            for place in range(len(expiries))
        ],
    }


def oracle_accounts(
    figures: Figures, market: CryptoMarket, book: CryptoBook, count: int
) -> list[dict[str, Any]]:
    """The first accounts of a book as the oracle has them."""
    i, rows, ids = market.instruments, book.portfolio.rows, market.instruments.ids.to_list()
    found = []
    for place in range(count):
        own = slice(int(rows.offsets[place]), int(rows.offsets[place + 1]))
        held = list(zip(rows.column[own].tolist(), rows.value[own].tolist(), strict=True))
        coins = [(code, size) for code, size in held if i.kind[code] == COIN]
        found.append(
            {
                "cash": float(book.cash[place]),
                "unrealised": float(book.unrealised[place]),
                "perpetual": sum(size for code, size in held if i.kind[code] == PERPETUAL),
                "options": [
                    {
                        "expiry": int(i.expiry[code]),
                        "strike": float(i.strike[code]),
                        "call": bool(i.call[code]),
                        "size": size,
                        "volatility": float(i.volatility[code]),
                    }
                    for code, size in held
                    if i.kind[code] == OPTION
                ],
                "coins": [
                    {
                        "size": size,
                        "price": float(i.price[code]),
                        "confidence": float(i.confidence[code]),
                        "risk_cancelling": figures.collaterals[ids[code]].risk_cancelling,
                        "mm": figures.collaterals[ids[code]].mm_haircut,
                        "im": figures.collaterals[ids[code]].im_haircut,
                    }
                    for code, size in coins
                ],
            }
        )
    return found


# ---------------------------------------------------------------------------- NumPy and SciPy


class Practitioner:
    """What a quant would write: a grid of values, sparse positions, a product per expiry."""

    def __init__(self, figures: Figures, market: CryptoMarket) -> None:
        self.figures, self.market = figures, market
        i = market.instruments
        self.option = np.flatnonzero(i.kind == OPTION)
        expiries, at = market.expiries, i.expiry[self.option]
        self.years = expiries.seconds / YEAR
        self.rate = np.maximum(expiries.rate, 0.0)
        spot = np.array([one.spot for one in figures.ordered])
        volatility = np.stack([self._volatility(one.volatility) for one in figures.ordered], axis=1)
        discount = np.exp(-self.rate * self.years)[at][:, None]
        flat = np.repeat(i.volatility[self.option][:, None], 3, axis=1)
        basis = np.array([1.0, figures.basis_up, figures.basis_down])
        grid = np.concatenate([self._black(spot, volatility), self._black(basis, flat)], axis=1)
        self.grid = grid * discount
        self.move = spot - 1.0
        self.damping = np.array([one.dampening for one in figures.ordered])
        self.skewed = np.array([one.volatility in ("linear", "abs") for one in figures.ordered])

    def _volatility(self, direction: str) -> Floats:
        figures, i, expiries = self.figures, self.market.instruments, self.market.expiries
        base, at = i.volatility[self.option], i.expiry[self.option]
        seconds = expiries.seconds[at]
        root = np.sqrt(seconds / YEAR)
        power = np.where(seconds <= 30 * DAY, figures.short_term_power, figures.long_term_power)
        scale = (30 * DAY / np.maximum(seconds, figures.dte_floor * DAY)) ** power
        if direction == "up":
            moved = base * (1 + figures.volatility_up * scale)
            return np.asarray(np.maximum(moved, figures.least_volatility_up))
        if direction == "down":
            return np.asarray(base * np.maximum(1 - figures.volatility_down * scale, 0.0))
        if direction == "none":
            return base
        away = np.log(i.strike[self.option] / (expiries.forward + expiries.fixed)[at])
        away = np.abs(away) if direction == "abs" else away
        cap = getattr(figures, f"{direction}_cap")
        cap = cap + getattr(figures, f"{direction}_cap_slope") * root
        width = figures.skew_volatility + figures.skew_volatility_slope * root
        width = np.maximum(figures.skew_least_width, root * figures.skew_width * width)
        return np.asarray(base * (1 + np.clip(away * cap / width, -cap, cap)))

    def _black(self, spot: Floats, volatility: Floats) -> Floats:
        i, expiries = self.market.instruments, self.market.expiries
        at, strike = i.expiry[self.option], i.strike[self.option][:, None]
        forward = expiries.forward[at][:, None] * spot + expiries.fixed[at][:, None]
        total = volatility * np.sqrt(expiries.seconds[at] / YEAR)[:, None]
        first = np.log(forward / strike) / total + total / 2
        call = forward * ndtr(first) - strike * ndtr(first - total)
        put = call - forward + strike
        return np.asarray(np.where(i.call[self.option][:, None], call, np.maximum(put, 0.0)))

    def margins(self, book: CryptoBook) -> tuple[Floats, Floats]:
        """Initial and maintenance margin values of accounts whose feeds are all sure."""
        figures, market, i = self.figures, self.market, self.market.instruments
        rows, count = book.portfolio.rows, len(book.cash)
        held = csr_array((rows.value, rows.column, rows.offsets), shape=(count, len(i)))
        change, value, basis = np.zeros((count, len(self.move))), np.zeros(count), np.zeros(count)
        naked = np.zeros(count)
        for place, years in enumerate(self.years):
            own = np.flatnonzero(i.expiry[self.option] == place)
            sizes = held[:, self.option[own]]
            cells = sizes @ self.grid[own]
            base = cells[:, -3]
            shocked = cells[:, :-3]
            up = figures.long_discount * np.exp(
                -years * (self.rate[place] * figures.long_rate_multiple + figures.long_rate_add)
            )
            down = figures.short_discount * np.exp(
                years * (self.rate[place] * figures.short_rate_multiple + figures.short_rate_add)
            )
            down = min(down, np.exp(self.rate[place] * years))
            moved = shocked * np.where(shocked >= 0, up, down) - base[:, None]
            change += np.where(self.skewed, -np.abs(moved), moved)
            least = np.minimum(np.minimum(cells[:, -2] - base, cells[:, -1] - base), 0.0)
            basis += least * (figures.basis_add + figures.basis_multiple * years)
            value += base
            strikes, pair = np.unique(i.strike[self.option[own]], return_inverse=True)
            pairs = csr_array(
                (np.ones(len(own)), (np.arange(len(own)), pair)), shape=(len(own), len(strikes))
            )
            naked += np.asarray((sizes @ pairs).minimum(0.0).sum(axis=1)).ravel() * -1.0
        terms, ids = figures.collaterals, i.ids.to_list()
        worth, mm, im, moving = (np.zeros(len(i)) for _ in range(4))
        for code in np.flatnonzero(i.kind == COIN):
            coin = terms[ids[code]]
            worth[code] = i.price[code] / market.stable
            mm[code], im[code] = worth[code] * coin.mm_haircut, worth[code] * coin.im_haircut
            moving[code] = worth[code] * coin.risk_cancelling
        perpetual = np.where(i.kind == PERPETUAL, 1.0, 0.0)
        exposure = held @ (moving + perpetual * np.nan_to_num(i.price))
        size = np.abs(held @ perpetual) * market.spot[0]
        worst = ((change + exposure[:, None] * self.move) * self.damping).min(axis=1)
        worst = np.minimum(worst, basis)
        naked *= market.spot[0]
        fixed = size * figures.perpetual_mm + naked * figures.option_mm + held @ mm
        more = size * figures.perpetual_im + naked * figures.option_im + held @ im
        equity = book.cash + book.unrealised + value + held @ worth
        peg = figures.peg_factor * max(0.0, figures.peg_threshold - market.stable)
        initial = worst * (figures.im_factor + peg) - fixed - more + equity
        return initial, worst * figures.mm_factor - fixed + equity
