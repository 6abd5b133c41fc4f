"""paradex-py, a public engine of portfolio margin (MIT): how many accounts a second it margins.

    python benchmarks/crypto_paradex.py 2 51

prints JSON: accounts per second by legs, of its offline engine with its venue's 24 weighted
scenarios (as it publishes them). Needs `pip install paradex-py`; its margin engine needs nothing
but Python, so `pip install --no-deps paradex-py` does where its signing libraries cannot be built.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import random
import sys
import time
import types
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

PACKAGE = "paradex-py"
SPOT, NOW = 90_000.0, datetime(2026, 1, 21, tzinfo=UTC)
EXPIRIES = ("27MAR26", "26JUN26", "25SEP26")
SECONDS = 2.0
# Of its 9 x 2 grid of spot and volatility the two corners that hurt nobody most are left out: it
# has 24 scenarios with the tails.
_GRID = [(0.04 * step, shock) for step in range(-4, 5) for shock in (-0.22, 0.4)][1:-1]
_TAILS = (
    *((-0.66, 0.18), (-0.33, 0.36), (0.5, 0.24), (1.0, 0.12)),
    *((2.0, 0.06), (3.0, 0.04), (4.0, 0.03), (5.0, 0.024)),
)
CONFIG = {
    "base_asset": "BTC",
    "hedged_margin_factor": 0.01,
    "unhedged_margin_factor": 0.02,
    "mmf_factor": 0.5,
    "scenarios": [
        *({"spot_shock": spot, "vol_shock": shock, "weight": 1.0} for spot, shock in _GRID),
        *({"spot_shock": spot, "vol_shock": 0.4, "weight": weight} for spot, weight in _TAILS),
    ],
    "vol_shock_params": {
        "dte_floor_days": 1.0,
        "vega_power_short_dte": 0.3,
        "vega_power_long_dte": 0.13,
        "min_vol_shock_up": 0.4,
    },
}


def engine() -> Any:
    """Its margin package; `ImportError` where it is not installed.

    The package around it imports libraries for signing orders, which margin does not need.
    """
    found = importlib.util.find_spec("paradex_py")
    if found is None or found.submodule_search_locations is None:
        raise ImportError("no paradex-py: pip install --no-deps paradex-py")
    if "paradex_py" not in sys.modules:
        around = types.ModuleType("paradex_py")
        around.__path__ = list(found.submodule_search_locations)
        sys.modules["paradex_py"] = around
    return importlib.import_module("paradex_py.margin")


def account(legs: int) -> dict[str, Any]:
    """What its `compute_pm` takes: a perpetual and options."""
    chosen = random.Random(7)
    quotes: dict[str, dict[str, Any]] = {}
    specs: dict[str, dict[str, Any]] = {}
    common = {"underlying_price": SPOT, "funding_rate": 1e-4, "interest_rate": 0.0}
    for place in range(legs):
        name, kind, greeks = "BTC-USD-PERP", "PERP", {"mark_price": SPOT, "delta": 1.0}
        if place:
            strike, right = int(SPOT * (0.5 + 0.02 * place)), "CP"[place % 2]
            name, kind = f"BTC-USD-{EXPIRIES[place % 3]}-{strike}-{right}", "OPTION"
            greeks = {"mark_price": 2_000.0, "delta": 0.4 if right == "C" else -0.4}
        quotes[name] = {**common, **greeks, "mark_iv": 0.5, "fee_rate": 3e-4}
        specs[name] = {"symbol": name, "asset_kind": kind}
        if place:
            expiry = NOW + timedelta(days=30 * (1 + place % 3))
            specs[name] |= {
                "strike_price": strike,
                "option_type": "CALL" if right == "C" else "PUT",
                "expiry_at": int(expiry.timestamp() * 1000),
            }
    positions = [
        {"market": name, "side": "BUY", "size": round(chosen.uniform(-5.0, 5.0), 3)}
        for name in quotes
    ]
    for one in positions:
        if float(str(one["size"])) < 0:
            one |= {"side": "SELL", "size": -float(str(one["size"]))}
    return {"positions": positions, "market_data": quotes, "market_specs": specs}


def accounts_per_second(margin: Any, legs: int) -> float:
    """Over some seconds, of one account asked again and again."""
    asked, done = account(legs), 0
    found = margin.compute_pm(orders=[], pm_config=CONFIG, now=NOW, **asked)
    if not found["IMR"] > 0.0:
        raise ValueError("paradex-py says that the account needs no margin")
    start = time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        margin.compute_pm(orders=[], pm_config=CONFIG, now=NOW, **asked)
        done += 1
    return done / (time.perf_counter() - start)


def main(words: Sequence[str]) -> int:
    """Measure at each number of legs and print."""
    margin = engine()
    rates = {legs: accounts_per_second(margin, int(legs)) for legs in words}
    print(json.dumps({"version": version(PACKAGE), "rates": rates}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
