"""What-ifs of a live book: runs on the positions changed, the same bits in any batch, bad ones."""

from __future__ import annotations

import math
from typing import Any

import live_case
import numpy as np
import polars as pl
import pytest
import strict_backend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_case import book
from tracker_case import BETWEEN_VENUES, TABLES, columns, config_of, fill, mark

import gpu_margin
from gpu_margin.live import LiveBook
from gpu_margin.living.asking import Asked
from gpu_margin.records import Record
from gpu_margin.tracking import tables

FEW = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MODELS = ("es", "cov", "capped", "mixed")
ACCOUNTS = ["A", "B", "C", "D", "F", "G", "NEW"]
INSTRUMENTS = ["FUTX", "FUTY", "CALLX", "PUTY", "SPOTX", "PERPY", "LONE", "FUTE", "GBPX"]


def changed(device: Any = "numpy", tables_: Any = None) -> LiveBook:
    """A book that is no longer what was loaded."""
    live = book(device, tables=tables_)
    rows = [
        fill("1", "A", "FUTX", 2.0, 100.0),
        fill("2", "B", "SPOTX", -4.0, 100.0, netting_set="s1"),
        fill("3", "G", "PERPY", 7.5, 50.0),
        fill("4", "A", "LONE", 1.0, 99.0, netting_set="z"),
    ]
    live.apply([Record(1, "fills", columns(rows))])
    live.apply([Record(2, "marks", columns([mark("FUTX", "price", 104.0)]))])
    return live


def ask(live: LiveBook, whatifs: list[Any], **more: Any) -> Asked:
    legs = live.encode(whatifs, **more)
    with live.turns.asking():
        return live.ask(legs)


def by_run(
    live: LiveBook, asked: tuple[str, str | None, dict[str, float]], replaced: bool
) -> dict[str, tuple[float, float]]:
    """Requirement of an account by model, and gross P&L, in a run on the positions changed."""
    account, name, positions = asked
    frames = tables.run_tables(live.core.state)
    rows = {
        "account_id": [account] * len(positions),
        "netting_set": [name or account] * len(positions),
        "instrument_id": list(positions),
        "quantity": list(positions.values()),
    }
    kept = frames["positions"]
    if replaced:
        kept = kept.filter(pl.col("account_id") != account)
    frames["positions"] = pl.concat([kept, pl.DataFrame(rows, schema=kept.schema)])
    finished = gpu_margin.run(config_of(), backend="numpy", **frames)
    unit = live_case.tracker(live).unit_pnl("es")
    assert unit is not None
    codes = live.core.state.contracts.codes
    own = frames["positions"].filter(account_id=account)
    gross = sum(
        abs(quantity) * np.abs(unit[codes[one]]).max()
        for one, quantity in zip(own["instrument_id"], own["quantity"], strict=True)
    )
    found = finished.sets.filter(account_id=account)
    return {model: (math.fsum(found.filter(model=model)["requirement"]), gross) for model in MODELS}


WHATIF = st.tuples(
    st.sampled_from(ACCOUNTS),
    st.sampled_from([None, None, None, "iso", "s1", "new"]),
    st.dictionaries(
        st.sampled_from(INSTRUMENTS),
        st.sampled_from([1.0, -1.0, 0.1, -0.3, 2.5, -7.0, 0.0]),
        min_size=1,
        max_size=5,
    ),
)


@given(WHATIF, st.booleans())
@FEW
def test_what_a_run_on_the_positions_changed_says(whatif: Any, replaced: bool) -> None:
    live = changed()
    found = ask(live, [whatif], replaced=[replaced], allow_new=True)
    assert not found.errors
    expected = by_run(live, whatif, replaced)
    for model, outcome in found.models.items():
        amount, gross = expected[model]
        # Mixed precision: sums of float32 are as far off as they may be.
        assert abs(outcome.after[0] - amount) <= 1e-12 * gross + 1e-9 * (model == "mixed")
    before = by_run(live, (whatif[0], None, {}), False)
    for model, outcome in found.models.items():
        assert outcome.before[0] == pytest.approx(before[model][0], rel=1e-13, abs=1e-13)


@pytest.mark.parametrize(
    "device", ["numpy", "numba", strict_backend.BACKEND], ids=["numpy", "numba", "strict"]
)
@given(st.lists(st.tuples(WHATIF, st.booleans()), min_size=1, max_size=12))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_alone_or_in_a_batch_answers_are_the_same_bits(device: Any, asked: Any) -> None:
    live = _shared(device)
    whatifs, replaced = [one for one, _ in asked], [one for _, one in asked]
    together = ask(live, whatifs, replaced=replaced, allow_new=True)
    other = ask(_shared("numpy"), whatifs, replaced=replaced, allow_new=True)
    for place, (one, flag) in enumerate(asked):
        alone = ask(live, [one], replaced=[flag], allow_new=True)
        assert alone.complete[0] == together.complete[place]
        for model, found in together.models.items():
            own = alone.models[model]
            assert own.before[0] == found.before[place] == other.models[model].before[place]
            assert own.after[0] == found.after[place] == other.models[model].after[place]
            assert own.status[0] == found.status[place]


_SHARED: dict[Any, LiveBook] = {}


def _shared(device: Any) -> LiveBook:
    name = device if isinstance(device, str) else device.name
    if name not in _SHARED:
        _SHARED[name] = changed(device)
    return _SHARED[name]


def test_after_the_trades_are_booked_it_is_what_was_answered() -> None:
    live = changed("numba")
    found = ask(live, [("C", None, {"FUTX": 3.0, "PUTY": -2.0}), ("F", None, {"SPOTX": 1.0})])
    level = dict(zip(INSTRUMENTS, [104.0] * 9, strict=True))
    rows = [
        fill("x1", "C", "FUTX", 3.0, level["FUTX"]),
        fill("x2", "C", "PUTY", -2.0, 0.0),
        fill("x3", "F", "SPOTX", 1.0, 0.0),
    ]
    live.apply([Record(3, "fills", columns(rows))])
    for model in MODELS:
        coverage = live.core.coverage(model)
        for place, name in enumerate(("C", "F")):
            own = coverage.own[live.set_code(name)]
            assert own == pytest.approx(found.models[model].after[place], rel=1e-9)
            status = coverage.accounts["status"][live.code(name)]
            assert status == found.models[model].status[place]


def test_status_is_not_known_where_it_does_not_follow() -> None:
    live = changed(tables_=BETWEEN_VENUES)
    found = ask(live, [("A", None, {"FUTX": 1.0})])
    assert found.models["es"].status.tolist() == [-1]
    tables_ = {name: TABLES[name] for name in ("positions", "instruments", "history", "fx")}
    found = ask(changed(tables_=tables_), [("A", None, {"FUTX": 1.0})])
    assert found.models["es"].status.tolist() == [-1]


def test_bad_what_ifs_hurt_no_other() -> None:
    live = changed()
    good = ("A", None, {"FUTX": 1.0, "SPOTX": -2.0})
    bad: list[Any] = [
        ("nobody", None, {"FUTX": 1.0}),
        ("A", "nowhere", {"FUTX": 1.0}),
        ("A", None, {"FUTX": 1.0, "NONE": 1.0}),
        ("A", None, {"NOPRICE": 1.0}),
        ("A", None, {"FUTX": 1.0, "SPOTX": float("nan")}),
        ("A", None, {"FUTX": 1e31}),
        ("A", None, {"FUTX": "1"}),
        ("A", None, {"FUTX": True}),
    ]
    found = ask(live, [good, *bad, good])
    fields = [found.errors[place][0] for place in range(1, 9)]
    assert fields == ["account_id", "netting_set", *["instrument_id"] * 2, *["quantity"] * 4]
    assert [found.errors[place][1] for place in (3, 5, 6, 7)] == ["NONE", "nan", "1e+31", "1"]
    alone = ask(live, [good])
    for model, outcome in found.models.items():
        assert outcome.after[0] == outcome.after[9] == alone.models[model].after[0]
    allowed = ask(live, bad[:2], allow_new=True)
    assert not allowed.errors
    assert allowed.models["es"].before[0] == 0.0


def test_no_what_ifs_and_no_legs() -> None:
    live = changed()
    assert ask(live, []).models["es"].after.tolist() == []
    found = ask(live, [("A", None, {}), ("A", None, {"FUTX": 0.0})])
    for outcome in found.models.values():
        assert outcome.after.tolist() == outcome.before.tolist()
    emptied = ask(live, [("A", None, {})], replaced=[True])
    assert [one.after.tolist() for one in emptied.models.values()] == [[0.0]] * 4


def test_accounts_with_failed_rows() -> None:
    more = {"account_id": ["A", "Q"], "instrument_id": ["NONE"] * 2, "quantity": [2.0, 3.0]}
    rows = pl.DataFrame(more).with_columns(pl.lit(None, pl.String).alias("netting_set"))
    live = changed(tables_={**TABLES, "positions": pl.concat([TABLES["positions"], rows])})
    found = ask(live, [(name, None, {"FUTX": 1.0}) for name in ("A", "Q", "C")])
    assert found.complete.tolist() == [False, False, True]
    assert found.lost.tolist() == [False, True, False]


# ---------------------------------------------------------------- tables of what-ifs


@given(st.lists(WHATIF, min_size=1, max_size=8), st.randoms(use_true_random=False))
@FEW
def test_a_table_is_as_its_what_ifs(asked: list[Any], random: Any) -> None:
    live = _shared("numpy")
    rows = [
        {"whatif_id": f"w{n}", "account_id": a, "netting_set": s, "instrument_id": i, "quantity": q}
        for n, (a, s, own) in enumerate(asked)
        for i, q in own.items()
    ]
    expected = ask(live, asked, allow_new=True)
    for shuffled in (False, True):
        table = pl.DataFrame(random.sample(rows, len(rows)) if shuffled else rows, strict=False)
        table = table.with_columns(pl.col("netting_set").cast(pl.String))
        for frame in (table, table.with_columns(pl.col("account_id").cast(pl.Categorical))):
            legs = live.encode_columns(frame, allow_new=True)
            assert legs.asked is not None
            found = live.ask(legs)
            places = [int(name[1:]) for name in legs.asked["whatif_id"]]
            assert sorted(places) == list(range(len(asked)))
            for model, outcome in found.models.items():
                right = expected.models[model]
                assert outcome.after.tolist() == right.after[places].tolist()
                assert outcome.before.tolist() == right.before[places].tolist()


def test_bad_rows_of_a_table() -> None:
    live = _shared("numpy")
    table = pl.DataFrame(
        {
            "whatif_id": ["1", "2", "3", "4", "5", "5", "6", "7"],
            "account_id": ["A", "nobody", "A", "A", "A", "A", None, "A"],
            "instrument_id": ["FUTX", "FUTX", "NONE", "FUTX", "FUTX", "SPOTX", "FUTX", None],
            "quantity": [1.0, 1.0, 1.0, math.inf, 1.0, None, 1.0, 1.0],
            "netting_set": [None, None, None, None, "iso", None, None, "nowhere"],
        }
    )
    legs = live.encode_columns(table)
    found = live.ask(legs)
    fields = {place: field for place, (field, _, _) in found.errors.items()}
    assert fields == {
        1: "account_id",
        2: "instrument_id",
        3: "quantity",
        4: "quantity",
        5: "account_id",
        6: "netting_set",
    }
    assert found.errors[2][1] == "NONE"
    good = ask(live, [("A", None, {"FUTX": 1.0})])
    assert found.models["es"].after[0] == good.models["es"].after[0]


def test_codes_that_have_changed_are_looked_up_again() -> None:
    live = changed()
    whatif = ("C", None, {"SPOTX": 2.0, "FUTX": 1.0})
    legs = live.encode([whatif])
    columns_ = live.encode_columns(
        pl.DataFrame(
            {
                "whatif_id": ["1", "1"],
                "account_id": ["C", "C"],
                "instrument_id": ["SPOTX", "FUTX"],
                "quantity": [2.0, 1.0],
            }
        )
    )
    before = live.ask(legs)
    live.apply([Record(3, "marks", columns([mark("NOPRICE", "price", 7.0)]))])
    after, again = live.ask(legs), live.ask(columns_)
    for model in MODELS:
        assert after.models[model].after.tolist() == before.models[model].after.tolist()
        assert again.models[model].after.tolist() == before.models[model].after.tolist()
    assert live.core.epoch == 1
