"""Collateral, status and call: by hand, by plain loops, and through whole runs."""

from __future__ import annotations

import math
from datetime import date, timedelta
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpu_margin
from gpu_margin.collateral import CollateralParameters, standing, together

DAYS = 80
LOOKBACK = 60
FACTORS = ("GOLD", "OIL", "BTC")


# ---------------------------------------------------------------- how a set stands, by hand


def stands(initial: float, value: float, **parameters: float) -> tuple[int, float, float]:
    figures = standing(
        np.array([initial]),
        np.array([value]),
        np.array([0.8 * initial]),
        CollateralParameters(**parameters),
    )
    return int(figures.status[0]), float(figures.call[0]), float(figures.utilisation[0])


@pytest.mark.parametrize(
    ("initial", "value", "status", "call", "utilisation"),
    [
        (100.0, 100.0, 0, 0.0, 1.0),
        (100.0, 250.0, 0, 0.0, 0.4),
        (100.0, 99.99, 1, 0.01, 100 / 99.99),
        (100.0, 80.0, 1, 20.0, 1.25),
        (100.0, 79.99, 2, 20.01, 100 / 79.99),
        (100.0, 0.0, 2, 100.0, math.nan),
        (100.0, -5.0, 2, 105.0, math.nan),
        (0.0, 0.0, 0, 0.0, 0.0),
        (0.0, 7.0, 0, 0.0, 0.0),
        (0.0, -7.0, 2, 7.0, 0.0),
        (100.011, 0.0, 2, 100.02, math.nan),
        (1e12 + 0.25, 1e12, 1, 0.25, 1 + 0.25e-12),
    ],
)
def test_status_call_and_utilisation(
    initial: float, value: float, status: int, call: float, utilisation: float
) -> None:
    found = stands(initial, value)
    assert found[:2] == (status, pytest.approx(call, abs=1e-12))
    assert found[2] == pytest.approx(utilisation, nan_ok=True)


@pytest.mark.parametrize(
    ("lacking", "step", "call"),
    [(100.01, 0.01, 100.01), (100.010001, 0.01, 100.02), (1.0, 5.0, 5.0), (10.0, 5.0, 10.0),
     (0.3, 0.1, 0.3), (1234.5, 1000.0, 2000.0), (1e-9, 0.01, 0.01)],
)  # fmt: skip
def test_calls_are_rounded_up(lacking: float, step: float, call: float) -> None:
    assert stands(lacking, 0.0, call_rounding=step)[1] == call


def test_a_call_below_the_minimum_is_not_made_but_the_status_stands() -> None:
    assert stands(100.0, 95.0, call_minimum=10.0)[:2] == (1, 0.0)
    assert stands(100.0, 90.0, call_minimum=10.0)[:2] == (1, 10.0)


def test_what_is_not_known_has_no_status() -> None:
    status, call, used = stands(math.nan, 5.0)
    assert (status, math.isnan(call), math.isnan(used)) == (-1, True, True)


def test_an_account_is_its_worst_set_and_its_calls_add_up() -> None:
    sets = standing(
        np.array([100.0, 100.0, 50.0, math.nan]),
        np.array([90.0, 500.0, 0.0, 3.0]),
        np.array([80.0, 80.0, 40.0, math.nan]),
        CollateralParameters(),
    )
    accounts = together(sets, np.array([0, 0, 1, 1]), 3)
    assert accounts.status.tolist() == [1, 2, -1]
    assert accounts.call[:2].tolist() == [10.0, 50.0]
    assert accounts.value.tolist() == [590.0, 3.0, 0.0]
    assert accounts.initial[:2].tolist() == [200.0, 50.0]
    assert math.isnan(accounts.initial[2])


# ---------------------------------------------------------------- whole runs, by plain loops


class Case:
    """A small venue of linear instruments whose collateral is worked out by plain loops."""

    def __init__(self, seed: int, mode: str) -> None:
        rng = np.random.default_rng(seed)
        self.mode, self.rng = mode, rng
        moves = rng.normal(0, 0.02, (DAYS, len(FACTORS)))
        moves[:, 1] = 0.7 * moves[:, 0] + 0.3 * moves[:, 1]
        self.prices = 100 * np.exp(np.cumsum(moves, axis=0))
        returns = self.prices[1:] / self.prices[:-1] - 1
        self.returns = returns[-LOOKBACK:]
        self.positions: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for account in ("a", "b", "c"):
            for name in (account, "isolated")[: int(rng.integers(1, 3))]:
                chosen = [(f, float(rng.integers(-9, 10))) for f in range(2)]
                self.positions[account, name] = chosen
        self.assets = {
            "USD": {"price": 1.0, "haircut": 0.0},
            "XAU": {"price": 20.0, "haircut": 0.05, "factor": "GOLD", "wrong_way_factor": 2.0,
                    "issuer": "mint", "issuer_limit": 900.0},
            "WTI": {"price": 5.0, "haircut": 0.1, "factor": "OIL", "wrong_way_factor": 1.0,
                    "issuer": "mint", "issuer_limit": 900.0, "concentration_limit": 400.0},
            "BTC": {"price": 50.0, "haircut": 0.3, "fx_haircut": 0.08, "factor": "BTC",
                    "currency": "EUR", "wrong_way_factor": 0.5},
            "BND": {"price": 10.0, "haircut": 0.02, "concentration_limit": 300.0},
        }  # fmt: skip
        self.collateral: list[dict[str, Any]] = []
        for account in ("a", "b", "c", "only collateral"):
            for asset in self.assets:
                for name in (None, "isolated"):
                    if rng.random() < 0.6 and (name is None or (account, name) in self.positions):
                        amount = float(rng.integers(-5 if asset == "USD" else 1, 60))
                        held = {"account_id": account, "asset": asset, "amount": amount}
                        self.collateral.append({**held, "netting_set": name})

    def run(self) -> gpu_margin.Run:
        days = [date(2024, 1, 1) + timedelta(days=n) for n in range(DAYS)]
        history = [
            {"date": day, "factor": name, "price": float(self.prices[n, m])}
            for n, day in enumerate(days)
            for m, name in enumerate(FACTORS)
        ]
        instruments = [
            {"instrument_id": f"F{f}", "kind": "future", "underlying": FACTORS[f],
             "currency": "USD", "price": 100.0}
            for f in range(2)
        ]  # fmt: skip
        positions = [
            {"account_id": a, "netting_set": s, "instrument_id": f"F{f}", "quantity": q}
            for (a, s), entries in self.positions.items()
            for f, q in entries
        ]
        columns = ("price", "currency", "haircut", "fx_haircut", "factor", "issuer",
                   "concentration_limit", "issuer_limit", "wrong_way_factor")  # fmt: skip
        assets = [
            {"asset": name, **{c: row.get(c, "USD" if c == "currency" else None) for c in columns}}
            for name, row in self.assets.items()
        ]
        schema = {"account_id": pl.String, "asset": pl.String, "amount": pl.Float64,
                  "netting_set": pl.String}  # fmt: skip
        scenarios = {"kind": "historical", "lookback": LOOKBACK}
        config = {
            "valuation_date": "2024-12-31",
            "currency": "USD",
            "collateral": {"mode": self.mode},
            "models": {
                "es": {"kind": "simulation", "scenarios": scenarios, "maintenance": 0.75,
                       "measure": {"kind": "es", "confidence": 0.9}},
                "cov": {"kind": "covariance", "confidence": 0.99, "lookback": LOOKBACK,
                        "estimator": {"kind": "sample"}},
            },
        }  # fmt: skip
        return gpu_margin.run(
            config,
            backend="numpy",
            positions=pl.DataFrame(positions),
            instruments=pl.DataFrame(instruments),
            history=pl.DataFrame(history),
            assets=pl.DataFrame(assets, infer_schema_length=None),
            collateral=pl.DataFrame(self.collateral, schema=schema),
            fx=pl.DataFrame({"currency": ["EUR"], "rate": [1.1]}),
        )

    # -------- what it must say

    def eligible(self, account: str) -> dict[tuple[str, str], float]:
        """Per set and asset of an account, the market value within the limits."""
        value: dict[tuple[str, str], float] = {}
        for row in self.collateral:
            if row["account_id"] == account:
                asset = self.assets[row["asset"]]
                rate = 1.1 if asset.get("currency") == "EUR" else 1.0
                key = (row["netting_set"] or account, row["asset"])
                value[key] = value.get(key, 0.0) + row["amount"] * asset["price"] * rate
        for members, limit in self.limits():
            total = sum(max(v, 0.0) for (_, asset), v in value.items() if asset in members)
            if total > limit:
                for key, one in value.items():
                    if key[1] in members and one > 0:
                        value[key] = one * limit / total
        return value

    def limits(self) -> list[tuple[set[str], float]]:
        return [({"WTI"}, 400.0), ({"BND"}, 300.0), ({"XAU", "WTI"}, 900.0)]

    def expected(self, model: str) -> dict[tuple[str, str], tuple[float, float]]:
        """Per set: initial requirement and collateral value."""
        found = {}
        accounts = {account for account, _ in self.positions} | {"only collateral"}
        for account in accounts:
            eligible = self.eligible(account)
            names = {s for a, s in self.positions if a == account} | {s for s, _ in eligible}
            for name in names:
                own = {asset: v for (s, asset), v in eligible.items() if s == name}
                exposure = np.zeros(len(FACTORS))
                for factor, quantity in self.positions.get((account, name), []):
                    exposure[factor] += 100.0 * quantity
                found[account, name] = self.stand(model, exposure, own, (account, name))
        return found

    def stand(
        self, model: str, exposure: np.ndarray[Any, Any], own: dict[str, float], key: Any
    ) -> tuple[float, float]:
        if self.mode == "in_scenarios":
            total = exposure.copy()
            for asset, value in own.items():
                if "factor" in self.assets[asset]:
                    total[FACTORS.index(str(self.assets[asset]["factor"]))] += value
            # Where there are no positions nothing is required, whatever the collateral does.
            initial = self.requirement(model, total)[0] if key in self.positions else 0.0
            return initial, sum(own.values())
        initial, losses = self.requirement(model, exposure)
        value = 0.0
        for asset, amount in own.items():
            terms = self.assets[asset]
            wrong_way = 0.0
            if "factor" in terms and key in self.positions:
                loss = losses[FACTORS.index(str(terms["factor"]))]
                wrong_way = min(1.0, float(terms["wrong_way_factor"]) * max(0.0, loss))
            haircut = max(float(terms["haircut"]), wrong_way)
            kept = amount * (1 - haircut) * (1 - float(terms.get("fx_haircut", 0.0)))
            value += amount if amount < 0 else kept
        return initial, value

    def requirement(self, model: str, exposure: np.ndarray[Any, Any]) -> tuple[float, list[float]]:
        """The requirement, and per factor the mean loss of an exposure of 1 in its tail."""
        if model == "cov":
            matrix = self.returns.T @ self.returns / LOOKBACK
            deviation = math.sqrt(float(exposure @ matrix @ exposure))
            z = NormalDist().inv_cdf(0.99)
            slopes = z * (matrix @ exposure) / deviation if deviation > 0 else np.zeros(3)
            return z * deviation, slopes.tolist()
        losses = -self.returns @ exposure
        k = math.ceil(round(0.1 * LOOKBACK, 9))
        tail = np.argsort(-losses, kind="stable")[:k]
        return max(0.0, float(losses[tail].mean())), (-self.returns[tail].mean(axis=0)).tolist()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["haircut", "in_scenarios"]))
def test_runs_against_plain_loops(seed: int, mode: str) -> None:
    case = Case(seed, mode)
    run = case.run()
    assert run.failures.is_empty()
    assert run.accounts is not None
    share = {"es": 0.75, "cov": 0.8}
    for model in ("es", "cov"):
        expected = case.expected(model)
        rows = run.accounts.filter(pl.col("model") == model)
        for row in rows.iter_rows(named=True):
            account, name = row["account_id"], row["netting_set"]
            mine = [v for (a, s), v in expected.items() if a == account and name in (None, s)]
            initial, value = (sum(part) for part in zip(*mine, strict=True))
            assert row["initial"] == pytest.approx(initial, rel=1e-9, abs=1e-9)
            assert row["collateral_value"] == pytest.approx(value, rel=1e-9, abs=1e-9)
            assert row["excess"] == pytest.approx(value - initial, rel=1e-9, abs=1e-6)
            assert row["maintenance"] == pytest.approx(share[model] * initial, rel=1e-9, abs=1e-9)
            order = ["ok", "call", "liquidation"]
            worst = max(0 if v >= i else 2 if v < share[model] * i else 1 for i, v in mine)
            assert row["status"] == order[worst]
            assert row["call"] >= sum(max(0.0, i - v) for i, v in mine) - 1e-6
            assert row["complete"]
        seen = set(rows.select("account_id", "netting_set").iter_rows())
        for account in {a for a, _ in expected}:
            names = {s for a, s in expected if a == account}
            assert (account, None) in seen
            assert {s for a, s in seen if a == account and s} == (
                names if names != {account} else set()
            )
    counted = run.manifest["statuses"]["es"]
    assert sum(counted.values()) == len({a for a, _ in case.expected("es")})


def test_margins_do_not_depend_on_collateral() -> None:
    case = Case(3, "haircut")
    with_collateral = case.run()
    case.collateral = []
    assert case.run().margins.equals(with_collateral.margins)


def test_an_account_without_collateral_is_called_and_the_reverse_requires_nothing() -> None:
    case = Case(1, "haircut")
    case.collateral = [{"account_id": "rich", "asset": "USD", "amount": 10.0, "netting_set": None}]
    rows = case.run().accounts
    assert rows is not None
    whole = {
        row["account_id"]: row
        for row in rows.filter(
            (pl.col("model") == "es") & pl.col("netting_set").is_null()
        ).iter_rows(named=True)
    }
    assert (whole["rich"]["initial"], whole["rich"]["status"]) == (0.0, "ok")
    assert whole["rich"]["collateral_value"] == 10.0
    assert whole["a"]["collateral_value"] == 0.0
    assert whole["a"]["status"] == "liquidation"
    assert whole["a"]["utilisation"] is None
    assert whole["a"]["call"] == pytest.approx(whole["a"]["initial"], abs=0.011)
