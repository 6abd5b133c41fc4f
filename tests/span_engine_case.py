"""The engine beside the oracle: the same positions to both, and every figure compared."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import span_oracle

from gpu_margin import backend
from gpu_margin.models.span.calculation import prepare
from gpu_margin.portfolio import Portfolio, Rows
from gpu_margin.span_book import SpanBook, SpanMargin, Terms
from gpu_margin.span_file import SpanFile
from gpu_margin.span_tables import ACCOUNT_TYPES

Dict = dict[str, Any]
Positions = Sequence[tuple[str, Any]]
BACKENDS = ("numpy", "numba")
NUMPY = backend.load("numpy")

FIGURES = (
    *("scan_risk", "intra_spread_charge", "delivery_charge", "inter_spread_credit"),
    *("short_option_minimum", "risk", "long_option_value", "short_option_value"),
    *("net_option_value", "requirement"),
)


@dataclass(frozen=True)
class Account:
    """What an account holds and how it is margined."""

    positions: Positions
    kind: str = "hedger"
    gross: bool = False


def book_of(file: SpanFile, accounts: Sequence[Account]) -> SpanBook:
    """Accounts named 0000, 0001 and so on; positions in contracts that the file has."""
    place = {name: code for code, name in enumerate(file.contracts.ids)}
    offsets, column, value = [0], [], []
    for one in accounts:
        held = sorted((place[name], float(quantity)) for name, quantity in one.positions)
        column += [contract for contract, _ in held]
        value += [quantity for _, quantity in held]
        offsets.append(len(column))
    names = pl.Series([f"{number:05d}" for number in range(len(accounts))], dtype=pl.String)
    count = np.diff(np.array(offsets, dtype=np.int64))
    rows = Rows(
        np.array(offsets, dtype=np.int64),
        np.array(column, dtype=np.int64),
        np.array(value, dtype=np.float64),
    )
    portfolio = Portfolio(
        accounts=names,
        sets=pl.Series([""] * len(accounts), dtype=pl.String),
        set_account=np.arange(len(accounts), dtype=np.int64),
        rows=rows,
        good=count,
        bad=np.zeros_like(count),
    )
    kinds = np.array([ACCOUNT_TYPES.index(one.kind) for one in accounts], dtype=np.int64)
    return SpanBook(portfolio, kinds, np.array([one.gross for one in accounts], dtype=np.bool_))


def margined(
    file: SpanFile, accounts: Sequence[Account], terms: Terms | None = None, name: str = "numpy"
) -> SpanMargin:
    return prepare(file, backend.load(name)).margin(book_of(file, accounts), terms or Terms())


def results_of(file: SpanFile, found: SpanMargin) -> list[Dict]:
    """Per account what the oracle gives: rows by commodity and totals by currency."""
    results: list[Dict] = [{"rows": {}, "totals": {}} for _ in range(len(found.failed))]
    codes = file.commodities.codes.to_list()
    figures = {name: getattr(found, name).tolist() for name in FIGURES}
    for row, (account, code) in enumerate(
        zip(found.account.tolist(), found.commodity.tolist(), strict=True)
    ):
        own = {name: values[row] for name, values in figures.items()}
        own["active_scenario"] = int(found.active[row]) + 1
        assert codes[code] not in results[account]["rows"]
        results[account]["rows"][codes[code]] = own
    for account, currency, total in zip(
        found.total_account.tolist(), found.total_currency.tolist(), found.total, strict=True
    ):
        results[account]["totals"][file.currencies[currency]] = float(total)
    return results


def required(
    file: SpanFile, held: Mapping[str, Any], kind: str = "hedger", initial: bool = False
) -> Dict:
    """What one account requires, which is the same from every backend."""
    accounts = [Account(list(held.items()), kind)]
    found = []
    for name in BACKENDS:
        margin = margined(file, accounts, Terms(initial=initial), name)
        assert margin.failures.is_empty(), margin.failures.rows()
        (own,) = results_of(file, margin)
        found.append(own)
    assert found[0] == found[1]
    return found[0]


def close(found: Any, wanted: Any, most: float = 1e-9) -> None:
    assert abs(float(found) - float(wanted)) <= most, (found, wanted)


@dataclass
class Tally:
    """What was compared, so that a test can say that it saw what it is about."""

    accounts: int = 0
    refused: int = 0
    seen: Counter[str] = field(default_factory=Counter)

    def note(self, wanted: Dict) -> None:
        self.accounts += 1
        for row in wanted["rows"].values():
            self.seen.update(name for name in FIGURES if row[name])
            self.seen["minimum decides"] += row["risk"] == row["short_option_minimum"] > 0
            self.seen["capped"] += bool(row["risk"] == row["long_option_value"] > 0)


def near(one: float, other: Any, size: float) -> bool:
    return abs(one - float(other)) <= 1e-9 * max(1.0, size)


def is_exact(exchange: Dict, one: Account) -> bool:
    """Whether losses are sums of what files say: no rates of currencies, no shares of anything."""
    home, contracts = exchange["commodities"], exchange["contracts"]
    held = [contracts[name] for name, _ in one.positions]
    scanning = any(spread["method"] == "04" for spread in exchange["spreads"])
    return not scanning and all(
        each["currency"] == home[each["commodity"]]["currency"] and each["type"] != "CMB"
        for each in held
    )


def differences(found: Dict, wanted: Dict, exact: bool) -> list[Any]:
    """Figures of an account that differ: (where, engine's, oracle's).

    Scenarios with equal losses may be told apart by rounding where figures are not exact.
    """
    wrong: list[Any] = []
    if found["rows"].keys() != wanted["rows"].keys():
        return [("rows", sorted(found["rows"]), sorted(wanted["rows"]))]
    for code, right in wanted["rows"].items():
        own = found["rows"][code]
        size = max(abs(float(right[name])) for name in FIGURES)
        wrong += [
            (code, name, own[name], float(right[name]))
            for name in FIGURES
            if not near(own[name], right[name], size)
        ]
        active, first = own["active_scenario"], right["active_scenario"]
        losses = right["losses"]
        if active != first and (exact or losses[active - 1] != losses[first - 1]):
            wrong.append((code, "active", active, first))
    size = sum(abs(float(one["risk"])) for one in wanted["rows"].values())
    if found["totals"].keys() != wanted["totals"].keys():
        return [*wrong, ("totals", found["totals"], wanted["totals"])]
    return wrong + [
        ("total", name, found["totals"][name], float(total))
        for name, total in wanted["totals"].items()
        if not near(found["totals"][name], total, size)
    ]


def compare(
    exchange: Dict, file: SpanFile, accounts: Sequence[Account], terms: Terms, tally: Tally
) -> list[Any]:
    """Accounts whose figures the engine and the oracle see differently: [] where there are none."""
    found = margined(file, accounts, terms)
    wrong = []
    for number, (one, own) in enumerate(zip(accounts, results_of(file, found), strict=True)):
        try:
            wanted = span_oracle.margin(
                exchange,
                one.positions,
                one.kind,
                terms.initial,
                one.gross,
                terms.spread_places,
                terms.delta_places,
            )
        except ValueError as error:
            tally.refused += 1
            if not found.failed[number]:
                wrong.append((one, "not refused", str(error)))
            continue
        tally.note(wanted)
        if found.failed[number]:
            wrong.append((one, "refused", found.failures.filter(source=f"{number:05d}").rows()))
        elif different := differences(own, wanted, is_exact(exchange, one)):
            wrong.append((one, different))
    return wrong


def random_accounts(
    rng: random.Random, drawn: Dict, draw: Any, count: int, whole: bool = False
) -> list[Account]:
    """Accounts of every class, some of them gross, some with both sides of a contract."""
    made = []
    for _ in range(count):
        held = draw(drawn, rng, whole)
        if rng.random() < 0.2 and held:
            name, quantity = rng.choice(held)
            held = [*held, (name, -quantity if rng.random() < 0.5 else rng.randint(1, 4))]
        made.append(Account(held, rng.choice(ACCOUNT_TYPES), rng.random() < 0.15))
    return made
