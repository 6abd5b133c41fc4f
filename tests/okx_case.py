"""OKX's accounts for tests: the venue's example, and a venue of our own."""

from __future__ import annotations

import math

from standard_case import Held, Venue, cases
from vectors_case import vectors

DAY = 86_400.0


class Builder:
    """An answer of the position builder as a venue and an account.

    The answer does not say the size of a contract, the index, or what USDT is worth in USD. They
    follow from the deltas (size x mark x USDT) and from the smallest step of MR1 (size x index).
    """

    def __init__(self, answer):
        self.units, self.account, self.venue = answer["riskUnits"], answer["account"], Venue()
        self.positions, self.unrealised = {}, {}
        for position in answer["simPos"]:
            unit = position["instId"].split("-")[0]
            own = self.units[unit]
            implied = own["delta_usd"] / (position["pos"] * position["markPx"])
            contract = 10.0 ** round(math.log10(implied))
            self.venue.stable = implied / contract
            size = position["pos"] * contract
            grid = own["mr1_scenarios_volSame"]
            step = min(float(move) for move in grid if float(move) > 0)
            self.venue.underlying(unit, grid[f"{step:g}"] / (size * step))
            mark = position["markPx"] * self.venue.stable
            paid = position["avgPx"] * self.venue.stable
            self.venue.held(
                position["instId"],
                "perpetual",
                underlying=unit,
                price=mark,
                settlement=position["instId"].split("-")[1],
            )
            self.positions.setdefault(unit, {})[position["instId"]] = size
            self.unrealised[unit] = self.unrealised.get(unit, 0.0) + size * (mark - paid)
        self.cash = sum(asset["amt"] for asset in answer["simAsset"])

    def of(self, *units: str, cash: float = 0.0) -> Held:
        positions = {k: v for unit in units for k, v in self.positions[unit].items()}
        return Held(positions, cash, sum(self.unrealised[unit] for unit in units))


ANSWERS = {
    path.stem: answer
    for path in sorted((vectors() / "okx").glob("*.json"))
    if "riskUnits" in (answer := cases("okx", path.name))
}


SHOCKS = [{"days": 7, "points": 0.3, "share": 0.5}, {"days": 1e9, "points": 0.1, "share": 0.25}]
OPEN = {
    "volatility": SHOCKS,
    "waived": ["mr3", "mr5", "mr9"],
    "collateral": {"BTC": 0.95, "USDT": 1.0},
    "tiers": {
        name: {"minimum_steps": [[1e300, 1.0]], "perpetual_basis": 0.01, "minimum_charge": 0.01}
        for name in ("first", "second", "others")
    },
}
WEEK, MONTH = 7 * DAY, 30 * DAY


def a_venue(volatility: float = 0.6, week: float = WEEK) -> Venue:
    venue = Venue()
    for name, spot in (("BTC", 90_000.0), ("LTC", 100.0), ("XYZ", 2.0)):
        venue.underlying(name, spot)
        for currency in ("USDT", "USDC"):
            venue.held(
                f"{name}-{currency}-SWAP",
                "perpetual",
                underlying=name,
                price=spot * 1.001,
                settlement=currency,
            )
        venue.held(
            f"{name}-USD-SWAP",
            "perpetual",
            underlying=name,
            price=spot,
            inverse=True,
            settlement=name,
        )
        for seconds, premium in ((week, 1.001), (MONTH, 1.005)):
            venue.expiry(name, seconds, spot * premium)
            venue.held(
                f"{name}-USDT-{seconds:.0f}",
                "future",
                underlying=name,
                price=spot * premium,
                expiry=seconds,
                settlement="USDT",
            )
            for share in (0.8, 1.0, 1.2):
                for call in (True, False):
                    venue.option(name, seconds, spot * share, call, volatility)
    venue.held("BTC", "coin", underlying="BTC", price=90_000.0)
    venue.held("USDT", "coin", price=1.0)
    return venue
