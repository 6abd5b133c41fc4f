"""Whether two margins of a crypto rulebook are the same: to the last bit, or as a venue prints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu_margin.crypto_book import CryptoMargin


def arrays(found: CryptoMargin) -> dict[str, Any]:
    """Everything that was found, [set, ...] each."""
    parts = {
        f"{level}.{name}": amount
        for level, own in found.levels.items()
        for name, amount in {**own.components, "requirement": own.requirement}.items()
    }
    whole = {
        "mark_to_market": found.mark_to_market,
        "cash": found.cash,
        "worst": found.worst,
        "pnl": found.pnl,
    }
    return {**parts, **whole, **{f"figures.{name}": own for name, own in found.figures.items()}}


def bits(found: CryptoMargin) -> dict[str, bytes]:
    """Everything that was found, by name; the P&L of scenarios where it was asked for."""
    return {
        name: np.asarray(amount).tobytes()
        for name, amount in arrays(found).items()
        if amount is not None
    }


def assert_same_bits(one: CryptoMargin, other: CryptoMargin, rows: Any = slice(None)) -> None:
    """`other` is what `one` has at these rows: no bit differs, signs of zeros included."""
    ours, theirs = arrays(one), arrays(other)
    assert ours.keys() == theirs.keys() and one.scenarios == other.scenarios
    for name, own in ours.items():
        chosen = np.asarray(own)[rows]
        assert np.array_equal(chosen, theirs[name], equal_nan=chosen.dtype.kind == "f"), name
        if chosen.dtype.kind == "f":
            kept = ~np.isnan(chosen)
            assert np.array_equal(np.signbit(chosen[kept]), np.signbit(theirs[name][kept])), name


def close(value: Any, expected: float) -> None:
    """A number is the expected one to 1e-10, or to that share of it where it is above 1."""
    assert float(value) == pytest.approx(expected, rel=0, abs=1e-10 * max(1, abs(expected)))
