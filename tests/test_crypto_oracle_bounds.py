"""Derive's portfolio margin with every figure at both ends of what the venue's contract takes."""

from __future__ import annotations

from random import Random

import crypto_oracle
import crypto_oracle_books as books
import pytest
from test_crypto_oracle_engine import assert_near, pm2_of

from gpu_margin.crypto_book import INITIAL, MAINTENANCE

# By name of the oracle. A moment before or after no move stands for the open ends.
BOUNDS = {
    **dict.fromkeys(("range_up", "range_down", "short_power", "long_power"), (0.0, 10.0)),
    **dict.fromkeys(("short_rate", "long_rate", "short_add", "long_add"), (0.0, 10.0)),
    **dict.fromkeys(("linear_cap", "abs_cap", "least_star", "width"), (0.0, 10.0)),
    **dict.fromkeys(("linear_base", "abs_base"), (-10.0, 10.0)),
    **dict.fromkeys(("skew_volatility", "peg_factor"), (0.0, 10.0)),
    **dict.fromkeys(("im_factor", "mm_factor"), (0.5, 10.0)),
    **dict.fromkeys(("short_base", "long_base"), (0.0, 4.0)),
    **dict.fromkeys(("basis_add", "basis_mult", "confidence_margin", "floor_up"), (0.0, 20.0)),
    **dict.fromkeys(("mm_perpetual", "im_perpetual"), (0.0, 3.0)),
    **dict.fromkeys(("mm_option", "im_option"), (0.0, 2.0)),
    "basis_up": (1.0000001, 3.0),
    "basis_down": (0.0, 0.9999999),
    "floor_seconds": (0.0, 400 * 86_400.0),
    "peg_threshold": (0.0, 100.0),
    "confidence_threshold": (0.0, 1.0),
    "skew_slope": (-20.0, 20.0),
}


@pytest.mark.parametrize("end", [0, 1], ids=["least", "most"])
@pytest.mark.parametrize("name", BOUNDS)
def test_pm2_at_the_ends_of_its_figures(name: str, end: int) -> None:
    for seed in range(6):
        random = Random(seed)
        venue = books.venue(random, ("BTC",))
        # At expiry without a shortest tenor the venue divides by zero.
        for one in venue["markets"]["BTC"]["expiries"]:
            one["seconds"] = max(one["seconds"], 1.0)
        figures = {**books.pm2_figures(random), name: BOUNDS[name][end]}
        accounts = [books.account(random, venue, books.COINS) for _ in range(10)]
        found = pm2_of(venue, {"BTC": figures}, accounts)
        assert found.failures.is_empty()
        for place, account in enumerate(accounts):
            plain = books.of_oracle(venue, account)
            wanted = crypto_oracle.pm2(figures, venue["markets"]["BTC"], plain)
            gross = books.gross(venue, account)
            assert_near(found.value(INITIAL)[place], wanted["IM"], gross, ("IM", account))
            assert_near(found.value(MAINTENANCE)[place], wanted["MM"], gross, ("MM", account))
