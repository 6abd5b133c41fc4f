"""Netting between venues: what an owner's books require together, and who bears it."""

from __future__ import annotations

import math
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpu_margin

DAYS, LOOKBACK = 50, 40
FACTORS = ("X", "Y")


class Case:
    """Accounts of three owners at three venues, some with an isolated set."""

    def __init__(self, seed: int, measure: str = "es") -> None:
        rng = np.random.default_rng(seed)
        self.measure = measure
        self.prices = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, (DAYS, 2)), axis=0))
        returns = self.prices[1:] / self.prices[:-1] - 1
        self.returns = returns[-LOOKBACK:]
        self.owner, self.venue = {}, {}
        self.book: dict[tuple[str, str], list[float]] = {}
        for number in range(9):
            account = f"acc{number}"
            self.owner[account] = f"own{rng.integers(3)}"
            self.venue[account] = f"V{rng.integers(3)}"
            self.book[account, account] = rng.integers(-9, 10, 2).astype(float).tolist()
            if rng.random() < 0.3:
                self.book[account, "iso"] = rng.integers(-9, 10, 2).astype(float).tolist()
        self.agreements = [
            {"owner": "own0", "venues": "V0;V1", "max_offset": 0.8},
            {"owner": "own1", "venues": "V0;V1;V2", "max_offset": float(rng.choice([0, 0.5, 1]))},
        ]

    def agreed(self, account: str) -> dict[str, Any] | None:
        for one in self.agreements:
            if one["owner"] == self.owner[account] and self.venue[account] in one["venues"]:
                return one
        return None

    def run(self, **frames: pl.DataFrame) -> gpu_margin.Run:
        scenarios = {"kind": "historical", "lookback": LOOKBACK}
        measure = (
            {"kind": "worst"}
            if self.measure == "worst"
            else {"kind": self.measure, "confidence": 0.9}
        )
        config = {
            "valuation_date": "2024-12-31", "currency": "USD",
            "models": {
                "sim": {"kind": "simulation", "scenarios": scenarios, "measure": measure},
                "cov": {"kind": "covariance", "confidence": 0.99, "lookback": LOOKBACK,
                        "estimator": {"kind": "sample"}},
            },
        }  # fmt: skip
        days = [date(2024, 1, 1) + timedelta(days=n) for n in range(DAYS)]
        tables = {
            "positions": pl.DataFrame(
                [
                    {"account_id": a, "netting_set": s, "instrument_id": FACTORS[f], "quantity": q}
                    for (a, s), quantities in self.book.items()
                    for f, q in enumerate(quantities)
                ]
            ),
            "instruments": pl.DataFrame(
                [
                    {"instrument_id": name, "kind": "future", "underlying": name,
                     "currency": "USD", "price": 100.0}
                    for name in FACTORS
                ]
            ),
            "history": pl.DataFrame(
                [
                    {"date": day, "factor": name, "price": float(self.prices[n, m])}
                    for n, day in enumerate(days)
                    for m, name in enumerate(FACTORS)
                ]
            ),
            "accounts": pl.DataFrame(
                [
                    {"account_id": a, "owner": o, "venue": self.venue[a]}
                    for a, o in self.owner.items()
                ]
            ),
            "agreements": pl.DataFrame(self.agreements),
        }  # fmt: skip
        return gpu_margin.run(config, backend="numpy", **{**tables, **frames})

    def requirement(self, model: str, quantities: Any) -> float:
        exposure = 100.0 * np.asarray(quantities)
        if model == "cov":
            matrix = self.returns.T @ self.returns / LOOKBACK
            return 2.3263478740408408 * math.sqrt(max(0.0, float(exposure @ matrix @ exposure)))
        losses = np.sort(-self.returns @ exposure)[::-1]
        k = math.ceil(round(0.1 * LOOKBACK, 9))
        tail = {"worst": losses[0], "es": losses[:k].mean(), "var": losses[k - 1]}[self.measure]
        return max(0.0, float(tail))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["es", "var", "worst"]))
def test_owners_against_plain_loops(seed: int, measure: str) -> None:
    case = Case(seed, measure)
    cash = pl.DataFrame({"asset": ["USD"], "price": [1.0], "currency": ["USD"], "haircut": [0.0]})
    none = pl.DataFrame(schema={"account_id": pl.String, "asset": pl.String, "amount": pl.Float64})
    some = pl.DataFrame({"account_id": ["acc0"], "asset": ["USD"], "amount": [1.0]})
    run = case.run(assets=cash, collateral=pl.concat([none, some]))
    assert run.owners is not None
    assert run.accounts is not None
    for model in ("sim", "cov"):
        books: dict[str, list[str]] = {}
        for account in case.owner:
            if case.agreed(account):
                books.setdefault(case.owner[account], []).append(account)
        rows = {row["owner"]: row for row in run.owners.filter(model=model).iter_rows(named=True)}
        assert set(rows) == set(books)
        factor = dict.fromkeys(case.owner, 1.0)
        for owner, members in books.items():
            alone = [case.requirement(model, case.book[a, a]) for a in members]
            total = sum(alone)
            joint = case.requirement(model, np.sum([case.book[a, a] for a in members], axis=0))
            agreement = case.agreed(members[0])
            assert agreement is not None
            capped = max(joint, total - agreement["max_offset"] * (total - joint))
            row = rows[owner]
            assert row["venue_sum"] == pytest.approx(total, rel=1e-9, abs=1e-9)
            assert row["joint"] == pytest.approx(joint, rel=1e-9, abs=1e-9)
            assert row["capped"] == pytest.approx(capped, rel=1e-9, abs=1e-9)
            assert row["saving"] == pytest.approx(total - capped, rel=1e-9, abs=1e-7)
            assert row["level"] == "initial"
            if measure != "var" or model == "cov":
                assert row["saving"] >= -1e-9
            for account in members:
                factor[account] = capped / total if total > 0 else math.nan
        standing = run.accounts.filter((pl.col("model") == model) & pl.col("netting_set").is_null())
        for account, initial in standing.select("account_id", "initial").iter_rows():
            if math.isnan(factor[account]):
                continue
            expected = sum(
                case.requirement(model, quantities) * (factor[account] if name == account else 1.0)
                for (a, name), quantities in case.book.items()
                if a == account
            )
            assert initial == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_netting_between_venues_never_changes_margins() -> None:
    case = Case(11)
    netted = case.run()
    case.agreements = [{"owner": "nobody", "venues": "V0;V1", "max_offset": 0.0}]
    assert case.run().margins.equals(netted.margins)


def test_an_owner_of_one_venue_saves_nothing_and_without_agreements_there_is_no_table() -> None:
    case = Case(4)
    case.venue = dict.fromkeys(case.venue, "V0")
    case.owner = {account: account for account in case.owner}
    case.agreements = [{"owner": "*", "venues": "V0;V1", "max_offset": 1.0}]
    run = case.run()
    assert run.owners is not None
    assert (run.owners["saving"] == 0.0).all()
    case.agreements = [{"owner": "acc1", "venues": "V0", "max_offset": 1.0}]  # a failure: one venue
    broken = case.run()
    assert broken.owners is None
    assert len(broken.failures) == 1


def test_books_of_no_requirement_are_shared_alike() -> None:
    from gpu_margin.owners import MergedBooks, Netted, shares

    books = MergedBooks(np.array([0, 0, -1]), np.array([0]), None)  # type: ignore[arg-type]
    netted = Netted(np.array([0.0]), np.array([6.0]), np.array([6.0]))
    assert shares(books, np.array([0.0, 0.0, 5.0]), netted).tolist() == [3.0, 3.0, 5.0]
