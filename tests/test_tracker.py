"""The tracker: cash by hand, state by plain loops, figures by runs on what it exports."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import strict_backend
import tracker_case as case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_case import CASE, frames
from tracker_case import (
    BETWEEN_VENUES,
    TABLES,
    Oracle,
    Row,
    columns,
    fill,
    mark,
    same_as_run,
    same_state,
)

from gpu_margin import loading
from gpu_margin.failures import ConfigError, InputError
from gpu_margin.tracker import Tracker

MODES = ("haircut", "in_scenarios")


def cash(tracked: Tracker, account: str, name: str | None = None, asset: str = "USD") -> float:
    """What the netting set has of an asset."""
    keys = {"account_id": account, "netting_set": name or account, "asset": asset}
    return float(tracked.collateral().filter(**keys)["amount"].sum())


def held(tracked: Tracker, account: str, name: str | None = None) -> dict[str, float]:
    own = tracked.positions().filter(account_id=account, netting_set=name or account)
    return dict(zip(own["instrument_id"], own["quantity"], strict=True))


def status(tracked: Tracker, account: str) -> str | None:
    own = tracked.accounts().filter(pl.col("netting_set").is_null(), account_id=account)
    found: str | None = own["status"].item()
    return found


# ---------------------------------------------------------------- where it begins


@pytest.mark.parametrize("tables", [TABLES, BETWEEN_VENUES], ids=["alone", "between venues"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", ["es", "cov", "capped", "mixed"])
def test_it_begins_where_a_run_ends(mode: str, model: str, tables: Row, tmp_path: Path) -> None:
    import gpu_margin

    tracked = case.tracker(model, mode=mode, tables=tables)
    finished = gpu_margin.run(case.config_of(mode), backend="numpy", **tables)
    assert finished.accounts is not None
    assert tracked.accounts().equals(finished.accounts.filter(model=model))
    same_as_run(tracked, tmp_path)


def test_batches_without_rows() -> None:
    tracked = case.tracker()
    before = tracked.accounts()
    for took in (tracked.fill({"fill_id": []}), tracked.fill(pl.DataFrame([GOOD]).clear())):
        assert (took.applied, took.sequence, took.events) == (0, 0, ())
    assert tracked.accounts().equals(before)


# ---------------------------------------------------------------- cash, by hand


@pytest.mark.parametrize(
    ("name", "quantity", "price", "fee", "asset", "change"),
    [
        ("FUTX", 2.0, 100.0, 3.0, "USD", 2 * 10 * (101 - 100) - 3),
        ("FUTX", -2.0, 100.0, -1.5, "USD", -2 * 10 * (101 - 100) + 1.5),
        ("FUTX", 1.0, -5.0, 0.0, "USD", 10 * (101 + 5)),
        ("PERPY", 4.0, 51.5, 0.0, "USD", 4 * 0.5 * (50.5 - 51.5)),
        ("SPOTX", 3.0, 100.5, 1.0, "USD", -3 * 100.5 - 1),
        ("SPOTX", -3.0, 100.5, 1.0, "USD", 3 * 100.5 - 1),
        ("CALLX", -2.0, 4.25, 0.5, "USD", 2 * 4.25 - 0.5),
        ("CALLX", 2.0, 0.0, 0.0, "USD", 0.0),
        ("PUTY", 2.0, 1.5, 0.25, "EUR", -2 * 1.5 - 0.25),
        ("FUTE", 3.0, 50.0, 0.5, "EUR", 3 * 2 * (51 - 50) - 0.5),
        ("GBPX", 3.0, 79.0, 2.0, "USD", 3 * 4 * 1.25 * (80 - 79) - 2 * 1.25),
    ],
)
def test_cash_of_a_fill(
    name: str, quantity: float, price: float, fee: float, asset: str, change: float
) -> None:
    tracked = case.tracker()
    before = cash(tracked, "A", "iso", asset)
    row = fill("1", "A", name, quantity, price, netting_set="iso", fee=fee)
    took = tracked.fill(columns([row]))
    assert (took.applied, took.sequence) == (1, 1)
    assert cash(tracked, "A", "iso", asset) - before == change
    assert held(tracked, "A", "iso") == {name: quantity}


def test_a_fee_and_a_netting_set_may_be_left_out() -> None:
    tracked = case.tracker()
    row = fill("1", "A", "SPOTX", 1.0, 7.0)
    tracked.fill(columns([{key: row[key] for key in row if key not in ("fee", "netting_set")}]))
    assert cash(tracked, "A") == 100.0 - 7.0


def test_a_round_trip_earns_the_difference_of_its_prices() -> None:
    """However marks move in between."""
    tracked = case.tracker()
    tracked.fill(columns([fill("1", "A", "FUTX", 2.0, 100.0)]))
    tracked.mark(columns([mark("FUTX", "price", 130.0)]))
    tracked.fill(columns([fill("2", "A", "FUTX", -2.0, 125.0)]))
    one_that_was_there = 10 * (130.0 - 101.0)
    assert cash(tracked, "A") == 100.0 + 2 * 10 * (125.0 - 100.0) + one_that_was_there


def test_marks_settle_futures_and_perpetuals_and_nothing_else() -> None:
    tracked = case.tracker()
    rows = [
        mark("FUTX", "price", 103.0),
        mark("PERPY", "price", 50.0),
        mark("SPOTX", "price", 120.0),
        mark("CALLX", "implied_vol", 0.3),
        mark("PUTY", "forward", 52.0),
        mark(None, "last", 60.0, factor="Y"),
    ]
    took = tracked.mark(columns(rows))
    assert (took.applied, len(took.skipped), took.sequence) == (6, 0, 6)
    assert cash(tracked, "A") == 100.0 + 10 * 2.0
    assert cash(tracked, "B", "s2") == 10.0 - 10 * 2.0
    assert cash(tracked, "D") == -7.5 * 0.5 * -0.5
    assert cash(tracked, "C") == 0.0
    assert cash(tracked, "B", "s1") == 0.0


def test_cash_that_is_no_asset_yet() -> None:
    """Where the assets have no cash in the margin currency, it is added to them."""
    without = ASSETS_WITHOUT_CASH
    tables = {**TABLES, "assets": without, "collateral": case.COLLATERAL.filter(asset="BND")}
    tracked = case.tracker(tables=tables)
    tracked.fill(columns([fill("1", "C", "SPOTX", 1.0, 7.0), fill("2", "C", "PUTY", 1.0, 2.0)]))
    assert cash(tracked, "C") == pytest.approx(-7.0 - 2.0 * 1.1)
    with tempfile.TemporaryDirectory() as folder:
        same_as_run(tracked, Path(folder))


ASSETS_WITHOUT_CASH = case.ASSETS.filter(asset="BND")


def test_an_asset_that_stands_in_the_way_of_cash() -> None:
    other = pl.DataFrame({"asset": ["USD"], "currency": ["EUR"], "price": [2.0], "haircut": [0.1]})
    tables = {**TABLES, "assets": pl.concat([ASSETS_WITHOUT_CASH, other], how="diagonal")}
    with pytest.raises(ConfigError, match="USD must be cash"):
        case.tracker(tables=tables)


# ---------------------------------------------------------------- positions


def test_positions_close_to_exactly_nothing(tmp_path: Path) -> None:
    tracked = case.tracker()
    rows = [fill(str(n), "N", "FUTX", q, 101.0) for n, q in enumerate([0.1, 0.2, -0.3])]
    tracked.fill(columns(rows[:2]))
    assert held(tracked, "N") == {"FUTX": 0.1 + 0.2}
    tracked.fill(columns(rows[2:]))
    assert held(tracked, "N") == {}
    own = tracked.requirements().filter(account_id="N")
    assert own.rows() == [("N", "N", 0.0, True)]
    same_as_run(tracked, tmp_path)
    again = fill("9", "N", "FUTX", -0.1, 101.0)
    tracked.fill(columns([again]))
    assert held(tracked, "N") == {"FUTX": -0.1}
    same_as_run(tracked, tmp_path)


def test_rounding_is_of_all_that_was_added_up() -> None:
    """As with rows of positions: 1e6 + 0.1 - 1e6 - 0.1 is nothing, though not to the last bit."""
    quantities = [1e6, 0.1, -1e6, -0.1]
    assert sum(quantities) != 0.0
    tracked = case.tracker()
    tracked.fill(columns([fill(str(n), "N", "FUTX", q, 1.0) for n, q in enumerate(quantities)]))
    assert held(tracked, "N") == {}


def test_positions_that_were_rows_remember_what_they_were_added_up_from() -> None:
    rows = [
        {"account_id": "N", "instrument_id": "FUTX", "quantity": q, "netting_set": None}
        for q in (1e6, 0.1, -1e6)
    ]
    tables = {**TABLES, "positions": pl.concat([TABLES["positions"], pl.DataFrame(rows)])}
    tracked = case.tracker(tables=tables)
    tracked.fill(columns([fill("1", "N", "FUTX", -0.1, 1.0)]))
    assert held(tracked, "N") == {}


def test_accounts_sets_and_instruments_open_as_they_are_named(tmp_path: Path) -> None:
    tracked = case.tracker()
    rows = [
        fill("1", "AA", "LONE", 1.0, 99.0),
        fill("2", "AA", "FUTX", 2.0, 101.0, netting_set="z"),
        fill("3", "A", "PERPY", 2.0, 50.0),
        fill("4", "AA", "FUTX", 3.0, 101.0, netting_set="b"),
        fill("5", "B", "SPOTX", 3.0, 101.0),
    ]
    tracked.fill(columns(rows))
    assert held(tracked, "AA") == {"LONE": 1.0}
    assert held(tracked, "AA", "z") == {"FUTX": 2.0}
    assert held(tracked, "A") == {"CALLX": -3.0, "FUTX": 1.0, "PERPY": 2.0}
    same_as_run(tracked, tmp_path)


@pytest.mark.parametrize("number", [7, 30])
def test_many_fills_of_one_netting_set_in_a_batch(number: int) -> None:
    """They are booked one after another, the first of them together with those of other sets."""
    rng = np.random.default_rng(3)
    rows = [
        fill(str(n), "A" if n % 3 else "C", "FUTX", float(rng.normal()), float(rng.normal()))
        for n in range(number * 3 // 2)
    ]
    together, apart = case.tracker(), case.tracker()
    together.fill(columns(rows))
    for row in rows:
        apart.fill(columns([row]))
    assert together.positions().equals(apart.positions())
    assert together.collateral().equals(apart.collateral())
    assert together.accounts().equals(apart.accounts())


# ---------------------------------------------------------------- what is wrong with fills

GOOD = fill("1", "A", "FUTX", 1.0, 100.0)


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"fill_id": None}, "fill_id", "missing fill_id"),
        ({"fill_id": ""}, "fill_id", "missing fill_id"),
        ({"account_id": None}, "account_id", "missing account_id"),
        ({"instrument_id": None}, "instrument_id", "missing instrument_id"),
        ({"instrument_id": "NONE"}, "instrument_id", "unknown instrument"),
        ({"instrument_id": "NOPRICE"}, "instrument_id", "failed instrument"),
        ({"quantity": None}, "quantity", "missing quantity"),
        ({"quantity": float("nan")}, "quantity", "not finite"),
        ({"quantity": float("inf")}, "quantity", "not finite"),
        ({"quantity": 1e31}, "quantity", "out of range"),
        ({"quantity": 1e-31}, "quantity", "out of range"),
        ({"quantity": 0.0}, "quantity", "nothing was traded"),
        ({"quantity": "many"}, "quantity", "not a number"),
        ({"price": None}, "price", "missing price"),
        ({"price": float("-inf")}, "price", "not finite"),
        ({"instrument_id": "SPOTX", "price": -1.0}, "price", "negative price"),
        ({"instrument_id": "PERPY", "price": -1.0}, "price", "negative price"),
        ({"instrument_id": "CALLX", "price": -1.0}, "price", "negative price"),
        ({"fee": float("nan")}, "fee", "not finite"),
        ({"fee": "free"}, "fee", "not a number"),
        ({"netting_set": "\ufffd"}, "netting_set", "not text"),
        ({"account_id": "\ufffd"}, "account_id", "not text"),
        ({"quantity": 1e20, "price": 1e20}, "quantity", "out of range"),
    ],
)
def test_a_bad_fill_changes_nothing(change: Row, field: str, reason: str) -> None:
    tracked, other = case.tracker(), case.tracker()
    after = fill("2", "C", "SPOTX", 1.0, 5.0)
    took = tracked.fill(columns([GOOD | change, after]))
    assert (took.applied, took.sequence, took.failures["row"].to_list()) == (1, 2, [1])
    assert took.failures["field"].item() == field
    assert reason in took.failures["reason"].item()
    other.fill(columns([after]))
    assert tracked.accounts().equals(other.accounts())
    assert tracked.positions().equals(other.positions())
    assert tracked.collateral().equals(other.collateral())
    # Its id is free.
    assert tracked.fill(columns([GOOD])).applied == 1


def test_a_position_out_of_range_is_refused() -> None:
    tracked = case.tracker()
    rows = [fill(str(n), "N", "FUTX", 6e29, 101.0) for n in range(3)]
    took = tracked.fill(columns([*rows, fill("x", "N", "PERPY", 1.0, 1.0)]))
    assert (took.applied, took.failures["row"].to_list()) == (2, [2, 3])
    assert held(tracked, "N") == {"FUTX": 6e29, "PERPY": 1.0}
    took = tracked.fill(columns([fill(f"y{n}", "N", "FUTX", -1e29, 101.0) for n in range(8)]))
    assert took.applied == 8
    took = tracked.fill(columns([fill(f"z{n}", "N", "FUTX", -2e29, 101.0) for n in range(8)]))
    assert took.applied == 4


def test_columns_as_people_have_them() -> None:
    rows = [fill("1", "A", "FUTX", 1.0, 100.0), fill("2", "B", "FUTY", 2.0, 50.0, netting_set="s1")]
    expected = case.tracker()
    expected.fill(columns(rows))
    given: list[Any] = [
        pl.DataFrame(rows),
        pl.DataFrame(rows).with_columns(pl.col("account_id").cast(pl.Categorical)),
        pl.DataFrame(rows).to_pandas(),
        {name: np.array(values) for name, values in columns(rows).items()},
        {name: pl.Series(values) for name, values in columns(rows).items()},
        columns(rows) | {"quantity": ["1", " 2.0 "], "fee": [None, None]},
        columns(rows) | {"quantity": np.array([1, 2], dtype=np.int32)},
        columns(rows) | {"more": [1, 2], "row": ["x", "y"]},
    ]
    for batch in given:
        tracked = case.tracker()
        took = tracked.fill(batch)
        assert (took.applied, len(took.failures)) == (2, 0)
        assert tracked.accounts().equals(expected.accounts())


def test_columns_that_are_no_table() -> None:
    tracked = case.tracker()
    before = tracked.accounts()
    row = columns([GOOD])
    took = tracked.fill({name: row[name] for name in row if name != "price"})
    assert "missing column" in took.failures["reason"].item()
    with pytest.raises(InputError, match="different lengths"):
        tracked.fill(row | {"price": [1.0, 2.0]})
    assert tracked.accounts().equals(before)


# ---------------------------------------------------------------- fills that come again


def test_a_fill_that_comes_again_is_not_booked_again() -> None:
    tracked = case.tracker()
    rows = [GOOD, fill("2", "A", "FUTX", 1.0, 100.0), GOOD]
    took = tracked.fill(columns(rows))
    assert (took.applied, took.skipped.tolist(), took.sequence) == (2, [3], 3)
    took = tracked.fill(columns([fill("3", "A", "FUTX", 1.0, 1.0), rows[1], GOOD]))
    assert (took.applied, took.skipped.tolist(), len(took.failures)) == (1, [2, 3], 0)
    assert held(tracked, "A")["FUTX"] == 4.0


@pytest.mark.parametrize("size", [1, 2, 3, 5, 11])
@pytest.mark.parametrize("remember", [1, 3, 4])
def test_ids_are_forgotten_after_as_many_rows_as_asked(remember: int, size: int) -> None:
    rows = [fill(one, "A", "FUTX", 1.0, 100.0) for one in "abcaabcdefb"]
    tracked = case.tracker(remember=remember)
    for start in range(0, len(rows), size):
        tracked.fill(columns(rows[start : start + size]))
    booked: dict[str, int] = {}
    expected = 1.0
    for number, row in enumerate(rows):
        if number - booked.get(row["fill_id"], -100) > remember:
            booked[row["fill_id"]] = number
            expected += 1.0
    assert held(tracked, "A")["FUTX"] == expected


def test_forgotten_ids_take_no_room() -> None:
    tracked = case.tracker(remember=10)
    for batch in range(40):
        rows = [fill(f"{batch}-{n}", "A", "FUTX", 1.0, 100.0) for n in range(100)]
        tracked.fill(columns(rows))
    assert len(tracked.core.seen) < 1200
    assert tracked.fill(columns(rows[-10:])).applied == 0


# ---------------------------------------------------------------- marks


def test_marks_that_are_older_are_skipped() -> None:
    tracked = case.tracker()
    rows = [
        mark("FUTX", "price", 103.0, 5.0),
        mark("FUTX", "price", 90.0, 4.0),
        mark("FUTX", "price", 104.0, 5.0),
    ]
    took = tracked.mark(columns(rows))
    assert (took.applied, took.skipped.tolist(), took.sequence) == (2, [2], 3)
    took = tracked.mark(columns([mark("FUTX", "price", 1.0, 4.9)]))
    assert (took.applied, took.skipped.tolist(), took.sequence) == (0, [1], 4)
    assert cash(tracked, "A") == 100.0 + 10 * 3.0


def test_marks_of_the_inputs_are_in_force(tmp_path: Path) -> None:
    marks = pl.DataFrame(
        [mark("FUTX", "price", 105.0, 10.0), mark("PUTY", "implied_vol", 0.5, 1.0)]
    )
    tracked = case.tracker(tables={**TABLES, "marks": marks})
    same_as_run(tracked, tmp_path)
    tracked.fill(columns([fill("1", "A", "FUTX", 1.0, 100.0)]))
    assert cash(tracked, "A") == 100.0 + 10 * 5.0
    took = tracked.mark(columns([mark("FUTX", "price", 1.0, 9.0)]))
    assert took.applied == 0
    tracked.mark(columns([mark("FUTX", "price", 106.0, 11.0)]))
    assert cash(tracked, "A") == 100.0 + 10 * 5.0 + 2 * 10 * 1.0
    same_as_run(tracked, tmp_path)


def test_a_bad_mark_changes_nothing() -> None:
    tracked = case.tracker()
    before = tracked.accounts(), tracked.collateral()
    rows = [
        mark("NONE", "price", 1.0),
        mark("CALLX", "price", 1.0),
        mark("FUTX", "price", float("nan")),
        mark("SPOTX", "price", -1.0),
        mark("FUTX", "price", 1.0, None),
    ]
    took = tracked.mark(columns(rows))
    assert (took.applied, len(took.skipped), took.sequence) == (0, 0, 5)
    assert sorted(took.failures["row"]) == [1, 2, 3, 4, 5]
    assert tracked.accounts().equals(before[0])
    assert tracked.collateral().equals(before[1])


def test_a_mark_that_would_settle_out_of_range_is_refused() -> None:
    tracked = case.tracker()
    tracked.fill(columns([fill("1", "N", "FUTX", 1e20, 101.0)]))
    rows = [mark("FUTX", "price", 1e15), mark("PERPY", "price", 60.0), mark("FUTX", "price", 102.0)]
    took = tracked.mark(columns(rows))
    assert (took.applied, took.failures["row"].to_list()) == (2, [1])
    assert cash(tracked, "N") == 1e20 * 10
    assert cash(tracked, "D") == -7.5 * 0.5 * 9.5


def test_a_mark_makes_an_instrument_valid(tmp_path: Path) -> None:
    """Positions in it, which had failed, are there from then on, and accounts complete."""
    more = {"account_id": ["A", "Q"], "instrument_id": ["NOPRICE"] * 2, "quantity": [2.0, 3.0]}
    rows = pl.DataFrame(more).with_columns(pl.lit(None, pl.String).alias("netting_set"))
    tables = {**TABLES, "positions": pl.concat([TABLES["positions"], rows])}
    tracked = case.tracker(tables=tables)
    same_as_run(tracked, tmp_path)
    own = tracked.requirements().filter(account_id="Q")
    assert own.rows() == [("Q", "Q", None, False)]
    tracked.fill(columns([fill("1", "N", "FUTX", q, 100.0) for q in (0.1,)]))
    took = tracked.fill(columns([fill("2", "N", "NOPRICE", 1.0, 7.0)]))
    assert "failed instrument" in took.failures["reason"].item()
    sequence = tracked.sequence
    took = tracked.mark(columns([mark("NOPRICE", "price", 7.0), mark("FUTX", "price", 102.0)]))
    assert (took.applied, took.sequence) == (2, sequence + 2)
    assert held(tracked, "Q") == {"NOPRICE": 3.0}
    assert cash(tracked, "Q") == 0.0
    assert cash(tracked, "A") == 100.0 + 10.0
    assert tracked.accounts()["complete"].all()
    same_as_run(tracked, tmp_path)
    took = tracked.fill(columns([fill("1", "N", "FUTX", 1, 1), fill("2", "N", "NOPRICE", 1, 6)]))
    assert (took.applied, took.skipped.tolist()) == (1, [1])
    assert cash(tracked, "N") == pytest.approx(0.1 * 10 * 1 + 0.1 * 10 * 1 + 10 * 1)


def test_what_is_known_beside_the_tables_survives_an_instrument_that_becomes_valid() -> None:
    for tables in (TABLES, frames(case.CASE_WITH_MORE)):
        tracked = case.tracker(tables=tables)
        rows = [fill(str(n), "N", "FUTX", q, 1.0) for n, q in enumerate((1e6, 0.1, -1e6))]
        tracked.fill(columns([*rows, fill("x", "C", "SPOTX", 1.0, 90.0)]))
        before = cash(tracked, "C"), len(tracked.events)
        took = tracked.mark(columns([mark("NOPRICE", "price", 7.0)]))
        assert took.events == ()
        assert (cash(tracked, "C"), len(tracked.events)) == before
        tracked.fill(columns([fill("y", "N", "FUTX", -0.1, 1.0)]))
        assert held(tracked, "N") == {}


def test_a_mark_that_makes_an_instrument_valid_may_be_an_event() -> None:
    more = {"account_id": ["C"], "instrument_id": ["NOPRICE"], "quantity": [2e6]}
    rows = pl.DataFrame(more).with_columns(pl.lit(None, pl.String).alias("netting_set"))
    tables = {**TABLES, "positions": pl.concat([TABLES["positions"], rows])}
    tracked = case.tracker(tables=tables)
    took = tracked.mark(columns([mark("NOPRICE", "price", 7.0)]))
    seen = [(event.account_id, event.before, event.after) for event in took.events]
    assert ("C", "ok", "liquidation") in seen


def test_any_library_gives_the_same_bits() -> None:
    rows = [fill("1", "A", "FUTX", 1.3, 100.0), fill("2", "C", "PERPY", -0.7, 50.0)]
    for mode in MODES:
        tables = []
        for device in ("numpy", "numba", strict_backend.BACKEND):
            tracked = case.tracker("es", device, mode)
            tracked.fill(columns(rows))
            tracked.mark(columns([mark("FUTX", "price", 102.0)]))
            tables.append(tracked.accounts())
        assert tables[0].equals(tables[1])
        assert tables[0].equals(tables[2])


# ---------------------------------------------------------------- collateral and events


def test_from_ok_to_a_call_to_a_cure_to_liquidation() -> None:
    tracked = case.tracker()
    assert status(tracked, "C") == "ok"
    required = tracked.requirements().filter(account_id="C")["requirement"].item()
    spare = tracked.accounts().filter(account_id="C")["excess"].item()
    # A fee takes what is spare, and a little more.
    took = tracked.fill(columns([fill("1", "C", "FUTX", 1e-9, 101.0, fee=spare + 0.1 * required)]))
    seen = [(e.account_id, e.kind, e.before, e.after, e.sequence) for e in took.events]
    assert seen == [("C", "call", "ok", "call", 1)]
    lacking = tracked.accounts().filter(account_id="C")["call"].item()
    assert lacking > 0.0
    pay = {"account_id": ["C"], "asset": ["USD"], "amount": [lacking]}
    took = tracked.transfer(pay)
    assert [(e.kind, e.before, e.after) for e in took.events] == [("cured", "call", "ok")]
    took = tracked.fill(columns([fill("2", "C", "FUTX", 1e-9, 101.0)]))
    assert took.events == ()
    took = tracked.mark(columns([mark("FUTX", "price", 200.0), mark("SPOTX", "price", 9000.0)]))
    events = {event.account_id: event.kind for event in took.events}
    assert events["C"] == "liquidation"
    table = tracked.events
    assert table.filter(account_id="C")["kind"].to_list() == ["call", "cured", "liquidation"]
    assert table["sequence"].is_sorted()
    last = table.group_by("account_id").agg(pl.col("after").last())
    for account, after in last.iter_rows():
        assert status(tracked, account) == after


def test_an_account_that_opens_short_is_an_event() -> None:
    tracked = case.tracker()
    took = tracked.fill(columns([fill("1", "N", "FUTX", 1.0, 150.0), fill("2", "M", "FUTX", 1, 1)]))
    seen = [(e.account_id, e.kind, e.before, e.after) for e in took.events]
    assert seen == [("N", "liquidation", None, "liquidation")]


def test_collateral_moves(tmp_path: Path) -> None:
    tracked = case.tracker()
    rows = {
        "account_id": ["C", "C", "Z", "A"],
        "asset": ["BND", "XAU", "EUR", "USD"],
        "amount": [-20.0, 2.0, 5.0, -250.0],
        "netting_set": [None, "iso", None, None],
    }
    took = tracked.transfer(rows)
    assert (took.applied, took.sequence) == (4, 4)
    assert (cash(tracked, "C", asset="BND"), cash(tracked, "C", "iso", "XAU")) == (30.0, 2.0)
    assert (cash(tracked, "Z", asset="EUR"), cash(tracked, "A")) == (5.0, -150.0)
    same_as_run(tracked, tmp_path)
    bad = {"account_id": ["C", None, "C"], "asset": ["NONE", "USD", "USD"], "amount": [1, 1, None]}
    took = tracked.transfer(bad)
    assert (took.applied, sorted(took.failures["row"])) == (0, [1, 2, 3])
    took = tracked.transfer({"account_id": ["C"] * 2, "asset": ["USD"] * 2, "amount": [6e29] * 2})
    assert (took.applied, took.failures["row"].to_list()) == (1, [2])


@pytest.mark.parametrize("mode", MODES)
def test_collateral_that_begins_to_move(mode: str, tmp_path: Path) -> None:
    """The first asset with a factor makes a run ask the model in the market with assets."""
    tables = {**TABLES, "collateral": case.COLLATERAL.filter(pl.col("asset") != "XAU")}
    for model in ("es", "cov"):
        tracked = case.tracker(model, mode=mode, tables=tables)
        same_as_run(tracked, tmp_path)
        move = {"account_id": ["G", "B"], "asset": ["XAU"] * 2, "netting_set": [None, "s1"]}
        tracked.transfer({**move, "amount": [3.0, 5.0]})
        same_as_run(tracked, tmp_path)
        tracked.fill(columns([fill("1", "G", "PUTY", 5.0, 2.0)]))
        same_as_run(tracked, tmp_path)


def test_without_collateral_no_standing_is_known(tmp_path: Path) -> None:
    tables = frames(case.CASE_WITH_MORE)
    tracked = case.tracker(tables=tables)
    took = tracked.fill(columns([fill("1", "A", "SPOTX", 2.0, 7.0, fee=1.0)]))
    assert took.events == ()
    assert cash(tracked, "A") == -15.0
    for call in (tracked.accounts, lambda: tracked.transfer({})):
        with pytest.raises(ConfigError, match=r"inputs\.collateral"):
            call()
    same_as_run(tracked, tmp_path / "state")
    moved = pl.read_parquet(tmp_path / "state" / "cash.parquet")
    assert moved.rows() == [("A", "A", "USD", -15.0)]
    tracked.snapshot(tmp_path / "snapshot")
    again = Tracker.restore(tmp_path / "snapshot", "numpy")
    assert again.collateral().equals(tracked.collateral())


def test_new_accounts_join_the_agreements_of_their_owners(tmp_path: Path) -> None:
    tracked = case.tracker(tables=BETWEEN_VENUES)
    tracked.fill(columns([fill("1", "NEW", "FUTX", -3.0, 101.0), fill("2", "X", "FUTX", 1, 101)]))
    same_as_run(tracked, tmp_path)
    tracked.fill(columns([fill("3", "C", "PERPY", -3.0, 50.0)]))
    same_as_run(tracked, tmp_path)
    # One that comes before the others: what venues require is added up in order of accounts.
    rng = np.random.default_rng(4)
    for number in range(8):
        sizes = rng.normal(scale=5.0, size=4).tolist()
        rows = [
            fill(f"{number}-{account}", account, "FUTX", size, 101.0)
            for account, size in zip(["0", "A", "C", "D"], sizes, strict=True)
        ]
        tracked.fill(columns(rows))
        same_as_run(tracked, tmp_path)


# ---------------------------------------------------------------- any sequence

ACCOUNTS = st.sampled_from(["A", "B", "C", "F", "0", "NEW", "N2"])
NAMES = st.sampled_from([None, None, "s1", "iso"])
SIZES = st.sampled_from([1.0, -1.0, 0.1, 0.2, -0.3, 2.5, -7.0, 1e6, -1e6])
INSTRUMENTS = st.sampled_from(
    ["FUTX", "FUTX", "FUTY", "CALLX", "PUTY", "SPOTX", "PERPY", "LONE", "FUTE", "GBPX"]
)
PRICES = st.sampled_from([0.0, 1.1, 99.7, 104.3])
FEES = st.sampled_from([0.0, 0.1, -0.05])
FILLS = st.builds(
    lambda number, account, name, size, price, fee, own: (
        "fill",
        fill(str(number), account, name, size, price, fee=fee, netting_set=own),
    ),
    *(st.integers(0, 200), ACCOUNTS, INSTRUMENTS, SIZES, PRICES, FEES, NAMES),
)
MARKED = st.one_of(
    st.builds(
        lambda name, value, time: mark(name, "price", value, time),
        *(st.sampled_from(["FUTX", "FUTE", "PERPY", "SPOTX", "GBPX"]), PRICES, st.integers(0, 3)),
    ),
    st.builds(
        lambda name, value: mark(name, "implied_vol", value),
        *(st.sampled_from(["CALLX", "PUTY"]), st.sampled_from([0.0, 0.15, 0.9])),
    ),
    st.builds(lambda value: mark(None, "last", value, factor="X"), st.sampled_from([90.0, 110.0])),
)
COMING = st.lists(
    st.one_of(FILLS, FILLS, FILLS, FILLS, st.tuples(st.just("mark"), MARKED)), min_size=1
)
CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=30)
ANY = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def cut(coming: list[Any], sizes: list[int]) -> list[tuple[str, list[Row]]]:
    """Batches of one kind, of at most these sizes in turn."""
    found: list[tuple[str, list[Row]]] = []
    for kind, row in coming:
        most = sizes[len(found) % len(sizes)]
        if found and found[-1][0] == kind and len(found[-1][1]) < most:
            found[-1][1].append(row)
        else:
            found.append((kind, [row]))
    return found


def take(tracked: Tracker, batch: tuple[str, list[Row]]) -> None:
    took = (tracked.fill if batch[0] == "fill" else tracked.mark)(columns(batch[1]))
    assert took.applied + len(took.skipped) == len(batch[1]), took.failures.rows()


@pytest.mark.parametrize(
    ("model", "backend", "mode"),
    [
        ("es", "numpy", "haircut"),
        ("es", "numba", "in_scenarios"),
        ("cov", "numba", "haircut"),
        ("capped", "numpy", "in_scenarios"),
    ],
)
@given(COMING, CUTS)
@ANY
def test_any_sequence_gives_the_state_of_loops_and_the_figures_of_a_run(
    model: str, backend: str, mode: str, coming: list[Any], sizes: list[int]
) -> None:
    tracked, oracle = case.tracker(model, backend, mode), Oracle()
    for batch in cut(coming, sizes):
        take(tracked, batch)
        oracle.take(*batch)
    same_state(tracked, oracle)
    with tempfile.TemporaryDirectory() as folder:
        same_as_run(tracked, Path(folder), backend)


@pytest.mark.parametrize("tables", [TABLES, BETWEEN_VENUES], ids=["alone", "between venues"])
@given(COMING, CUTS, CUTS)
@ANY
def test_how_batches_are_cut_changes_no_bit(
    tables: Row, coming: list[Any], sizes: list[int], others: list[int]
) -> None:
    one, other = case.tracker(tables=tables), case.tracker(tables=tables)
    for batch in cut(coming, sizes):
        take(one, batch)
    for batch in cut(coming, others):
        take(other, batch)
    assert one.accounts().equals(other.accounts())
    assert one.positions().equals(other.positions())
    assert one.sequence == other.sequence == len(coming)
    amounts = [t.collateral().filter(pl.col("amount") != 0.0) for t in (one, other)]
    assert amounts[0].equals(amounts[1])
    if tables is BETWEEN_VENUES:
        with tempfile.TemporaryDirectory() as folder:
            same_as_run(one, Path(folder))


def test_a_snapshot_knows_what_the_export_does_not(tmp_path: Path) -> None:
    """Which fills were booked, what a position was added up from, statuses, events."""
    tracked = case.tracker(remember=1000)
    rows = [fill(str(n), "N", "FUTX", q, 200.0) for n, q in enumerate((1e6, 0.1, -1e6))]
    tracked.fill(columns(rows))
    tracked.snapshot(tmp_path / "state")
    restored = Tracker.restore(tmp_path / "state", "numpy")
    took = restored.fill(columns([*rows, fill("4", "N", "FUTX", -0.1, 1.0)]))
    assert (took.applied, took.skipped.tolist()) == (1, [1, 2, 3])
    assert held(restored, "N") == {}
    assert restored.events["account_id"].to_list() == ["N"]
    assert took.sequence == 7
    restored.snapshot(tmp_path / "state")
    assert Tracker.restore(tmp_path / "state", "numpy").sequence == 7


@given(COMING, CUTS, st.integers(0, 10))
@ANY
def test_a_snapshot_goes_on_as_if_nothing_had_happened(
    coming: list[Any], sizes: list[int], after: int
) -> None:
    batches = cut(coming, sizes)
    through, stopped = case.tracker(remember=50), case.tracker(remember=50)
    for batch in batches:
        take(through, batch)
    with tempfile.TemporaryDirectory() as folder:
        for batch in batches[:after]:
            take(stopped, batch)
        stopped.snapshot(Path(folder) / "state")
        restored = Tracker.restore(Path(folder) / "state", "numpy")
    for batch in batches[after:]:
        take(restored, batch)
    assert restored.accounts().equals(through.accounts())
    assert restored.positions().equals(through.positions())
    assert restored.collateral().equals(through.collateral())
    assert restored.events.equals(through.events)
    assert restored.sequence == through.sequence


# ---------------------------------------------------------------- in and out


def test_no_snapshot(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no")
    case.tracker().snapshot(tmp_path / "whole")
    (tmp_path / "half").write_bytes((tmp_path / "whole").read_bytes()[:2000])
    for name in ("none", "text", "half"):
        with pytest.raises(InputError, match="not the snapshot"):
            Tracker.restore(tmp_path / name)


def test_a_snapshot_that_fails_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    tracked = case.tracker()
    tracked.snapshot(path)
    before = path.read_bytes()

    def fails(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", fails)
    with pytest.raises(OSError, match="disk full"):
        tracked.snapshot(path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["state"]


def test_what_failed_in_the_inputs_fails_in_the_export(tmp_path: Path) -> None:
    """An account is not complete by being exported."""
    rows = [
        *TABLES["positions"].rows(named=True),
        {"account_id": "A", "instrument_id": "NONE", "quantity": 1.0, "netting_set": None},
        {"account_id": "W", "instrument_id": "FUTX", "quantity": None, "netting_set": None},
        {"account_id": "B", "instrument_id": "FUTX", "quantity": float("nan"), "netting_set": "s1"},
    ]
    collateral = pl.concat(
        [
            case.COLLATERAL,
            pl.DataFrame(
                {"account_id": ["C", "V"], "asset": ["NONE", "USD"], "amount": [1.0, None]}
            ),
        ],
        how="diagonal",
    )
    tables = {**TABLES, "positions": pl.DataFrame(rows), "collateral": collateral}
    tracked = case.tracker(tables=tables)
    same_as_run(tracked, tmp_path)
    tracked.fill(columns([fill("1", "W", "FUTX", 1.0, 1.0), fill("2", "V", "FUTX", 1.0, 1.0)]))
    same_as_run(tracked, tmp_path)
    table = tracked.accounts().filter(pl.col("netting_set").is_null())
    assert set(table.filter(~pl.col("complete"))["account_id"]) == {"A", "B", "C", "V", "W"}


def test_inputs_that_are_files_must_be_as_they_were(tmp_path: Path) -> None:
    from small_case import write_case

    path = write_case(CASE, tmp_path)
    loaded = loading.load(path)
    Tracker(loaded, "es", "numpy")
    table = pl.read_parquet(tmp_path / "instruments.parquet")
    table.with_columns(pl.col("price") + 1.0).write_parquet(tmp_path / "instruments.parquet")
    with pytest.raises(InputError, match="instruments: has changed"):
        Tracker(loaded, "es", "numpy")


def test_tables_in_memory_are_given_to_the_tracker_too() -> None:
    with pytest.raises(InputError, match="instruments: was a table in memory"):
        Tracker(case.loaded(), "es", "numpy")


def test_which_model() -> None:
    loaded = case.loaded()
    with pytest.raises(ConfigError, match="its models are es, cov, capped, mixed"):
        Tracker(loaded, "other", "numpy", **TABLES)
    whole = Tracker(loaded, None, "numpy", **TABLES)
    assert [model.name for model in whole.models] == ["es", "cov", "capped", "mixed"]
    for name in ("other", ""):
        with pytest.raises(ConfigError, match="the models are es, cov, capped, mixed"):
            whole.accounts(name)


def test_an_empty_book(tmp_path: Path) -> None:
    """Positions that are none, and nothing to track in."""
    tables = {**TABLES, "positions": TABLES["positions"].clear()}
    tracked = case.tracker(tables=tables)
    tracked.fill(columns([fill("1", "A", "FUTX", 1.0, 101.0)]))
    same_as_run(tracked, tmp_path)
    with pytest.raises(InputError, match="no instrument is valid"):
        case.tracker(tables={**TABLES, "instruments": TABLES["instruments"].clear()})


def test_a_batch_that_cannot_be_measured_is_measured_with_the_next(tmp_path: Path) -> None:
    tracked = case.tracker()
    require = tracked.core.coverages[0]._prepared.require

    def fails(rows: Any) -> Any:
        raise MemoryError

    object.__setattr__(tracked.core.coverages[0], "_prepared", _Fails(fails))
    with pytest.raises(MemoryError):
        tracked.fill(columns([fill("1", "C", "FUTX", 50.0, 101.0)]))
    object.__setattr__(tracked.core.coverages[0], "_prepared", _Fails(require))
    took = tracked.fill(columns([fill("1", "C", "FUTX", 50.0, 101.0)]))
    assert (took.applied, took.skipped.tolist()) == (0, [1])
    assert [event.account_id for event in took.events] == ["C"]
    same_as_run(tracked, tmp_path)


class _Fails:
    vectors = None

    def __init__(self, require: Any) -> None:
        self.require = require
