"""Option margin of Derive's standard account: short options on their own, and worst settlements.

Both are amounts <= 0, of which an expiry takes the better one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gpu_margin import crypto_rows
from gpu_margin.backend import Array, Backend
from gpu_margin.crypto_book import OPTION, Bools, CryptoMarket, Floats, Ints
from gpu_margin.portfolio import Rows, entry_rows

# Rows x settlement prices that are held at a time.
_CELLS = 1 << 23


def of_short(
    terms: Mapping[str, Floats], spot: Floats, strike: Floats, mark: Floats, call: Bools
) -> tuple[Floats, Floats]:
    """Initial and maintenance margin of one short option alone, its mark included: both <= 0.

    `terms` as fields of the rulebook's `Option`; all arrays broadcast.
    """
    out_of_money = np.maximum(np.where(call, strike - spot, spot - strike), 0.0)
    most, least = terms["spot_most"] * spot, terms["spot_least"] * spot
    share = -np.maximum(most - out_of_money, least) - mark
    of_call = -(terms["call_maintenance"] * spot) - mark
    of_put = np.maximum(terms["put_maintenance"] * spot, terms["put_mark_maintenance"] * mark)
    of_put = -of_put - mark
    initial = np.minimum(share, of_put * terms["initial_to_maintenance"])
    return np.where(call, share, initial), np.where(call, of_call, of_put)


@dataclass(frozen=True)
class Settlements:
    """What options pay at every settlement price that may be the worst of their expiry.

    Of each expiry these are 0, in slot 0, and its strikes: `slot` [instrument] has the option's
    own. `payoffs` [instrument, slot and then calls] on the device, the last column counting calls:
    it is how fast they pay beyond the last strike.
    """

    slot: Ints
    payoffs: Array
    backend: Backend

    @property
    def block(self) -> int:
        """Rows of options that may be asked for at a time."""
        return max(1, _CELLS // int(self.payoffs.shape[1]))

    def worst(self, rows: Rows, unpaired: Floats) -> Floats:
        """[row, level] worst settlement of rows of options, each of one expiry.

        A portfolio of options pays straight lines between its strikes: it is worst at one of them,
        at 0, or without end where it is short of calls. `unpaired` [row, level] is what each call
        costs that is short and uncovered.
        """
        backend, xp = self.backend, self.backend.xp
        paid = backend.weighted_sum(crypto_rows.on_device(backend, rows), self.payoffs)
        settled = paid[:, :-1]
        own = np.zeros(settled.shape, dtype=np.bool_)
        own[entry_rows(rows), self.slot[rows.column]] = True
        own[:, 0] = True
        # What is not of its own strikes counts as no loss.
        settled = xp.where(backend.to_device(own), settled, xp.zeros_like(settled))
        worst = xp.minimum(xp.min(settled, axis=1), xp.zeros_like(paid[:, -1]))
        calls = xp.minimum(paid[:, -1], xp.zeros_like(paid[:, -1]))
        return np.asarray(
            backend.to_host(worst)[:, None] + backend.to_host(calls)[:, None] * unpaired
        )


def settlements(market: CryptoMarket, backend: Backend) -> Settlements:
    """Those of all options of a market."""
    i, expiries = market.instruments, len(market.expiries)
    option = i.kind == OPTION
    pairs = np.stack([i.expiry[option], i.strike[option]], axis=1)
    strikes, place = np.unique(pairs, axis=0, return_inverse=True)
    of_expiry = strikes[:, 0].astype(np.int64)
    first = np.searchsorted(of_expiry, np.arange(expiries + 1))
    rank = 1 + np.arange(len(strikes)) - first[of_expiry]
    prices = np.zeros((expiries + 1, 1 + int(np.diff(first).max(initial=0))))
    prices[of_expiry, rank] = strikes[:, 1]
    slot = np.zeros(len(i), dtype=np.int64)
    slot[option] = rank[place.reshape(-1)]
    settled, strike = prices[i.expiry], i.strike[:, None]
    paid = np.maximum(np.where(i.call[:, None], settled - strike, strike - settled), 0.0)
    calls = (option & i.call)[:, None].astype(np.float64)
    matrix = np.concatenate([np.where(option[:, None], paid, 0.0), calls], axis=1)
    return Settlements(slot, backend.to_device(matrix), backend)
