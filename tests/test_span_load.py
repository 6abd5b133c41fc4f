"""The benchmark of SPAN measures, compares, and leaves a record."""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from span_book_case import LARGE, SMALL, both, exchange, known
from span_case import tables_of
from span_oracle import margin
from span_oracle_case import contract, exchange_of, inter_spread
from span_oracle_pa2 import parse_pa2
from span_oracle_xml import parse_spn
from span_random import model, portfolio
from span_random_pa2 import as_pa2

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import span_book
import span_load
import span_marginism
import span_plain
import span_positions
from span_xml_contracts import Writer

from gpu_margin.io.span_pa2 import read_pa2
from gpu_margin.io.span_xml import read_spn

Dict = dict[str, Any]

# ------------------------------------------------------------------------ readers and plain


def test_readers_and_the_plain_calculation_agree_with_the_slow_ones(tmp_path: Path) -> None:
    written, _ = both(*LARGE)
    table = span_positions.table(exchange(*LARGE), 40, 10)
    expected = [margin(written, held) for held in span_plain.accounts_of(table)]
    span_book.write(exchange(*LARGE), tmp_path / "a.pa2", "pa2")
    quant = span_plain.Practitioner(read_pa2(tmp_path / "a.pa2"))
    for held, slow in zip(span_plain.accounts_of(table), expected, strict=True):
        same(quant.margin(held), slow)


def test_the_xml_reader_reads_it_whole(tmp_path: Path) -> None:
    span_book.write(exchange(*SMALL), tmp_path / "a.spn", "xml")
    tables, (written, tagged) = read_spn(tmp_path / "a.spn"), both(*SMALL)
    assert not len(tables.failures)
    assert set(tables.contracts["contract_id"]) == set(written["contracts"])
    quant = span_plain.Practitioner(tables)
    names = {known(name): name for name in tagged["contracts"]}
    for held in span_plain.accounts_of(span_positions.table(exchange(*SMALL), 20, 10)):
        same(quant.margin(held), margin(tagged, [(names[name], q) for name, q in held]))


def same(found: tuple[Dict, Dict], slow: Dict) -> None:
    rows, totals = found
    assert set(rows) == set(slow["rows"]) and set(totals) == set(slow["totals"])
    for code, one in rows.items():
        for what, value in one.items():
            assert value == pytest.approx(float(slow["rows"][code][what]), rel=1e-9, abs=1e-6)
    for currency, total in totals.items():
        assert total == pytest.approx(float(slow["totals"][currency]), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_the_plain_calculation_on_random_exchanges(seed: int) -> None:
    drawn, rng = model(seed, xml=False), random.Random(seed)
    read = parse_pa2(as_pa2(drawn))
    quant = span_plain.Practitioner(tables_of(read))
    for _ in range(6):
        held = portfolio(drawn, rng)
        same(quant.margin(held), margin(read, held))


def test_nothing_to_lose_is_no_risk() -> None:
    """All of an array are gains, the least of them by volatility."""
    read = exchange_of({"A": [contract("A1", [-9, -5, *[-7] * 14])]})
    same(span_plain.Practitioner(tables_of(read)).margin([("A1", 3)]), margin(read, [("A1", 3)]))


@pytest.mark.parametrize("priority", [1, 3])
def test_what_comes_of_scanning_forms_spreads_that_are_later_only(priority: int) -> None:
    moves = [100 * step for step in (0, 0, -1, -1, 1, 1, -2, -2, 2, 2, -3, -3, 3, 3, -3, 3)]
    families = {name: [contract(f"{name}1", moves)] for name in "ABCT"}
    read = exchange_of(families)
    merged = inter_spread("04", [("A", 1, "A"), ("B", 1, "B"), ("T", 1, "A")], 50, "T", priority=2)
    after = inter_spread("01", [("T", 1, "A"), ("C", 1, "B")], 80, priority=priority)
    read["spreads"] = sorted([merged, after], key=lambda one: one["priority"])
    held = [("A1", 5), ("B1", 4), ("C1", -2)]
    slow = margin(read, held)
    assert (slow["rows"]["T"]["inter_spread_credit"] > 0) == (priority == 3)
    same(span_plain.Practitioner(tables_of(read)).margin(held), slow)


@pytest.mark.parametrize(("priority", "code"), [(1, "T"), (3, "V")])
def test_what_comes_of_scanning_is_scanned_again_later_only(priority: int, code: str) -> None:
    moves = [100 * step for step in (0, 0, -1, -1, 1, 1, -2, -2, 2, 2, -3, -3, 3, 3, -3, 3)]
    read = exchange_of({name: [contract(f"{name}1", moves)] for name in "ABTV"})
    legs = [("A", 1, "A"), ("B", 1, "B"), ("T", 1, "A")]
    merged = inter_spread("04", legs, 50, "T", priority=2)
    again = [("T", 1, "A"), ("V", 1, "A")]
    after = inter_spread("04", again, 50, "V", priority=priority, least=1)
    read["spreads"] = sorted([merged, after], key=lambda one: one["priority"])
    held = [("A1", 5), ("B1", -4)]
    slow = margin(read, held)
    assert set(slow["rows"]) == {code}
    same(span_plain.Practitioner(tables_of(read)).margin(held), slow)


# ---------------------------------------------------------------------------------- scripts


WORDS = [
    *("--contracts=600", "--xml=600", "--commodities=8", "--spreads=30", "--accounts=30"),
    *("--plain=10", "--public=5", "--rounds=1", "--backend=numpy"),
]


def test_everything_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*WORDS, "--marginism=no-such-python", f"--out={tmp_path}"]
    assert span_load.main(words) == 0
    (path,) = tmp_path.glob("span-*.json")
    found = json.loads(path.read_text())
    assert str(tmp_path) not in path.read_text()
    assert found["command"].startswith("python benchmarks/span_load.py --contracts 600 ")
    assert {"machine", "versions", "created", "marginism_steps"} <= set(found)
    measured = {(one["scenario"], one["name"]): one for one in found["figures"]}
    assert measured["reading pa2, 600 contracts", "CPU time"]["target"] == 10
    assert measured["reading spn, 600 contracts", "CPU time"]["target"] == 5
    assert measured["30 accounts of 10 legs", "per CPU second"]["target"] == 50_000
    assert measured["Python and NumPy, 10 accounts", "accounts that differ"]["value"] == 0
    assert measured["ceiling", "copying"]["value"] > 0
    shown = capsys.readouterr()
    assert "marginism is left out: " in shown.err
    assert len(shown.out.splitlines()) == len(found["figures"]) + 1


def test_accounts_that_differ_are_counted() -> None:
    row = {"scan_risk": 1.0, "intra_spread_charge": 0.0, "delivery_charge": 0.0,
           "inter_spread_credit": 0.0, "short_option_minimum": 0.0, "risk": 1.0,
           "net_option_value": 0.0}  # fmt: skip
    file = SimpleNamespace(
        commodities=SimpleNamespace(codes=pl.Series(["C0"])), currencies=("USD",)
    )
    found = SimpleNamespace(
        account=np.array([0, 1, 2]), commodity=np.zeros(3, dtype=int),
        total_account=np.array([0, 1, 2]), total_currency=np.zeros(3, dtype=int),
        total=np.ones(3), **{name: np.full(3, value) for name, value in row.items()},
    )  # fmt: skip
    good = ({"C0": row}, {"USD": 1.0})
    wrong = [({"C0": {**row, "risk": 1.1}}, {"USD": 1.0}), ({"C0": row, "C1": row}, {"USD": 1.0})]
    differing: Any = span_load.differing
    assert differing(file, found, [good, good, good]) == 0
    assert differing(file, found, [good, *wrong]) == 2
    assert differing(file, found, [good, good, ({"C0": row}, {"USD": 2.0})]) == 1


def test_marginism_is_asked_as_brokers_ask() -> None:
    """Its own python knows the contracts by commodity, month, right and strike."""
    made = exchange(*SMALL)
    row, quantity = span_positions.draw(made, 5, 4)
    terms = span_positions.plain_terms(made, row, quantity)
    asked = [one for account in terms for one in account]
    plain = io.BytesIO()
    Writer(made, plain=True).write(plain)
    read = parse_spn(plain.getvalue().decode(), 7)
    names = {
        (one["commodity"], one["right"] or "FUT", one["period"].ljust(8, "0"),
         round(float(one["strike"] or 0), 6))
        for one in read["contracts"].values()
    }  # fmt: skip
    assert len(asked) >= 20
    for symbol, kind, size, month, strike in asked:
        right = str(kind)[0] if kind != "FUT" else "FUT"
        assert (symbol, right, month, round(strike, 6)) in names and size


def test_positions_that_marginism_does_not_know_are_not_measured(tmp_path: Path) -> None:
    class Calculator:
        @staticmethod
        def from_file(path: str) -> Any:
            lost = SimpleNamespace(unmatched=[1], by_commodity={})
            return SimpleNamespace(calculate=lambda account: lost)

    engine = SimpleNamespace(basket=lambda orders: {})
    module = SimpleNamespace(
        Position=lambda *_, **__: None, SpanCalculator=Calculator, RiskEngine=lambda _: engine
    )
    with pytest.raises(ValueError, match="does not find 1 positions"):
        span_marginism.found(module, tmp_path, [[["C0", "FUT", 1, "20260900", 0.0]]])
