"""Beside SPAN margin: contracts, spreads that were formed, position by position."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from span_oracle import margin as slow_margin
from span_oracle_pa2 import parse_pa2

import gpu_margin
from gpu_margin import demo_span, span_figures
from gpu_margin.failures import ConfigError
from gpu_margin.span_files import read_file
from gpu_margin.span_run import SpanRun, contracts

EXCHANGE = parse_pa2(demo_span.pa2())
POSITIONS = pl.read_csv(io.StringIO(demo_span.POSITIONS))
ACCOUNTS = pl.read_csv(io.StringIO(demo_span.ACCOUNTS))
LEVELS = ("maintenance", "initial")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's risk parameter file."""
    found = tmp_path_factory.mktemp("span")
    (found / "span.pa2").write_text(demo_span.pa2())
    return found


@pytest.fixture(scope="module")
def file(folder: Path) -> Any:
    """The same, read once."""
    return read_file(folder / "span.pa2")[0]


def margined(
    file: Any, positions: Any = POSITIONS, accounts: Any = ACCOUNTS, **more: Any
) -> SpanRun:
    return gpu_margin.span(file, positions, accounts, backend="numpy", **more)


def positions(*rows: tuple[str, str, float]) -> pl.DataFrame:
    names = ["account_id", "contract_id", "quantity"]
    return pl.DataFrame(rows, schema=names, orient="row")


# ---------------------------------------------------------------- spreads


def test_spreads_that_were_formed_add_up_to_charges_and_credits(file: Any) -> None:
    run = margined(file, formed=True)
    assert run.formed is not None
    sums = run.formed.group_by("account_id", "combined_commodity", "kind").agg(
        pl.col("amount").sum()
    )
    amounts = {tuple(key): amount for *key, amount in sums.iter_rows()}
    for row in run.margins.iter_rows(named=True):
        key = (row["account_id"], row["combined_commodity"])
        assert amounts.get((*key, "intra"), 0.0) == pytest.approx(row["intra_spread_charge"])
        assert -amounts.get((*key, "inter"), 0.0) == pytest.approx(row["inter_spread_credit"])
    crack = run.formed.filter(pl.col("account_id") == "refiner")
    assert crack["legs"].unique().to_list() == ["A 3 CRUDE / B 2 PETROL / B 1 GASOIL"]
    assert crack["count"].to_list() == [10.0] * 3
    own = run.formed.filter(pl.col("account_id") == "calendar-trader")
    assert own["legs"].to_list()[0] == "A 1 202701-202702 / B 1 202703-202706"
    assert margined(file).formed is None


def test_spreads_without_a_name_have_their_number(file: Any) -> None:
    intra, inter = (
        replace(own, name=pl.Series([""] * len(own.name), dtype=pl.String))
        for own in (file.intra, file.inter)
    )
    run = margined(replace(file, intra=intra, inter=inter), formed=True)
    assert run.formed is not None
    numbers = run.formed.select("account_id", "kind", "spread").unique(maintain_order=True).rows()
    assert numbers == [
        ("calendar-trader", "intra", "3"),
        ("calendar-trader", "intra", "4"),
        ("refiner", "inter", "1"),
    ]


def test_legs_are_told_with_their_months_and_sides(file: Any) -> None:
    """A leg that is a tier of months, the others all months of their commodities."""
    own = file.inter
    (crude,) = [leg for leg in range(3) if own.leg_ratio[leg] == 3.0]
    last = own.leg_last.copy()
    last[crude] -= 4
    tiered = replace(file, inter=replace(own, leg_last=last))
    run = margined(tiered, formed=True)
    assert run.formed is not None
    crack = run.formed.filter(pl.col("kind") == "inter")
    assert crack["legs"][0] == "A 3 CRUDE 202701-202702 / B 2 PETROL / B 1 GASOIL"
    last[crude] -= 1
    single = replace(file, inter=replace(own, leg_last=last, leg_first=own.leg_first))
    shown = span_figures._inter_legs(single, 0)
    assert shown.startswith("A 3 CRUDE 202701 /")
    last[crude] -= 1
    assert span_figures._inter_legs(single, 0).startswith("A 3 CRUDE no month /")


# ---------------------------------------------------------------- position by position


@pytest.mark.parametrize("level", LEVELS)
def test_position_by_position_beside_the_portfolio(file: Any, level: str) -> None:
    run = margined(file, standalone=True, level=level)
    assert run.positions is not None and run.alone is not None
    kinds = {name: (kind, gross) for name, kind, gross in ACCOUNTS.iter_rows()}
    assert len(run.positions) == len(POSITIONS)
    for row in run.positions.iter_rows(named=True):
        held = [(row["contract_id"], row["quantity"])]
        kind, gross = kinds[row["account_id"]]
        slow = slow_margin(EXCHANGE, held, kind, level == "initial", gross)
        assert row["requirement"] == pytest.approx(float(slow["totals"][row["currency"]]))
    for row in run.alone.iter_rows(named=True):
        own = run.positions.filter(
            pl.all_horizontal(pl.col(name) == row[name] for name in ("account_id", "currency"))
        )
        assert row["positions"] == len(own)
        assert row["sum_alone"] == pytest.approx(math.fsum(own["requirement"]))
        assert row["times"] == row["sum_alone"] / row["requirement"]
    joined = run.totals.select("account_id", "currency", "requirement")
    assert_frame_equal(run.alone.select(joined.columns), joined)
    times = dict(
        run.alone.filter(pl.col("currency") == "USD").select("account_id", "times").iter_rows()
    )
    assert times["refiner"] == pytest.approx(4.0) and times["calendar-trader"] > 10.0


def test_positions_that_net_to_nothing_stand_nowhere(file: Any) -> None:
    name = "DMO:CR:FUT:202701"
    run = margined(file, positions(("a", name, 2.0), ("a", name, -2.0)), None, standalone=True)
    (total,) = run.totals.to_dicts()
    assert total["requirement"] == 0.0 and total["complete"] and total["currency"] is None
    assert run.margins.is_empty() and run.positions is not None and run.positions.is_empty()
    (alone,) = run.alone.to_dicts() if run.alone is not None else ()
    assert alone["positions"] == 0 and alone["times"] is None
    both = margined(
        file, positions(("a", name, 2.0), ("a", name, 0.0)), None, gross=True, standalone=True
    )
    assert both.positions is not None and both.positions["quantity"].to_list() == [2.0]


# ---------------------------------------------------------------- contracts


def test_contracts_are_listed_with_what_they_may_lose(file: Any) -> None:
    table = contracts(file).contracts
    assert table.columns == [
        *("contract_id", "exchange", "combined_commodity", "product", "type", "future_month"),
        *("option_month", "right", "strike", "price", "multiplier", "delta"),
        *("scan_long", "scan_short"),
    ]
    assert len(table) == 84
    for row in table.iter_rows(named=True):
        array = EXCHANGE["contracts"][row["contract_id"]]["array"]
        assert row["scan_long"] == max(Fraction(0), *array)
        assert row["scan_short"] == max(Fraction(0), *(-value for value in array))
    gains = replace(file, contracts=replace(file.contracts, array=-abs(file.contracts.array) - 1))
    assert set(contracts(gains).contracts["scan_long"]) == {0.0}
    assert contracts(gains).contracts["scan_short"].min() > 0.0  # type: ignore[operator]
    only = contracts(file, "LCR").contracts
    assert only["product"].unique().to_list() == ["LCR"] and len(only) == 30
    with pytest.raises(ConfigError, match="named 'LCX'; did you mean 'LCR'"):
        contracts(file, "LCX")
    assert contracts(file).failures.is_empty() and contracts(file).facts["clearing"] == "DMO"


def test_what_cannot_be_margined_is_told_with_the_contracts(folder: Path) -> None:
    path = folder / "odd.pa2"
    found = demo_span.pa2().replace("4 GASOIL10", "4 GASOIL11").splitlines()
    broken = [number for number, line in enumerate(found) if "LCR       CR        OOFC" in line][1]
    found[broken] = found[broken].rstrip()[:80] + "x"
    path.write_text("\n".join(found))
    failures = contracts(path).failures
    assert "delivery method 11" in failures["reason"][-1] and failures["value"][-1] == "GASOIL"
    assert failures["row"][0] in (broken, broken + 1)
