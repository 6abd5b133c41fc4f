"""Marks without reading the tables again: the same market, the same cash, the same rules."""

from __future__ import annotations

from typing import Any

import cupy_on_cpu
import numpy as np
import polars as pl
import pytest
import tracker_case as case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_case import book, figures, grouped, records, same
from test_live import WITH_LOST
from tracker_case import TABLES, columns, fill, mark

from gpu_margin import backend as backends
from gpu_margin.backend import TailMeasure
from gpu_margin.failures import BackendUnavailable
from gpu_margin.portfolio import Rows
from gpu_margin.records import Record
from gpu_margin.tracking import coverage, mark_batches, marking
from gpu_margin.tracking.marks import Step

ANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LINEAR = ["FUTX", "FUTE", "PERPY", "SPOTX", "GBPX", "LONE"]
OPTIONS = ["CALLX", "PUTY", "OWN"]
PRICES = [0.0, 1.1, 99.7, 104.3, 1e30]
# An option whose forward stands in the table, and one on a factor that others share.
OWN = {"instrument_id": "OWN", "kind": "call", "underlying": "X", "currency": "USD"}
OWN |= {"strike": 100.0, "expiry": "2025-01-01", "implied_vol": 0.2, "forward": 98.0}
WITH_OWN = {
    **TABLES,
    "instruments": pl.concat(
        [
            TABLES["instruments"],
            pl.DataFrame([OWN]).with_columns(
                pl.col("expiry").cast(TABLES["instruments"].schema["expiry"], strict=False)
                if TABLES["instruments"].schema["expiry"] == pl.String
                else pl.col("expiry").str.to_date()
            ),
        ],
        how="diagonal_relaxed",
    ),
}
COMING = st.one_of(
    st.tuples(st.sampled_from(LINEAR), st.none(), st.just("price"), st.sampled_from(PRICES)),
    st.tuples(
        st.sampled_from(OPTIONS), st.none(), st.just("implied_vol"), st.sampled_from([0.0, 0.9])
    ),
    st.tuples(
        st.sampled_from(OPTIONS), st.none(), st.just("forward"), st.sampled_from([50.0, 101.0])
    ),
    st.tuples(
        st.none(), st.sampled_from(["X", "Y", "Z"]), st.just("last"), st.sampled_from([90.0, 110.0])
    ),
)


@given(st.lists(COMING, min_size=1, max_size=12), st.integers(1, 5))
@ANY
def test_the_market_is_that_of_the_tables_at_the_marks(coming: Any, size: int) -> None:
    state = case.tracker(tables=WITH_OWN).core.state
    for start in range(0, len(coming), size):
        part = coming[start : start + size]
        steps = [Step(n, one[:3], (one[3], float(start + n))) for n, one in enumerate(part, 1)]
        found = marking.remarked(state, steps)
        assert found is not None
        state.loaded = _with_market(state.loaded, found.market)
        state.marks, state.forward = state.marks.after(steps), found.forward
        fresh = state.inputs.market_at(state.loaded, state.marks.table()).market
        for name in ("level", "volatility", "strike", "time", "rate", "scale", "factor", "option"):
            ours, theirs = (getattr(m.instruments, name) for m in (found.market, fresh))
            assert np.array_equal(ours, theirs), name
        assert found.market.instruments.ids.equals(fresh.instruments.ids)
        # What has not moved is as it was.
        for step in steps:
            if step.key[0] is not None:
                assert found.moved[state.contracts.codes[step.key[0]]]


def _with_market(loaded: Any, market: Any) -> Any:
    from dataclasses import replace

    return replace(loaded, market=market)


def test_only_what_a_mark_may_move_is_measured_again() -> None:
    tracked = case.tracker(tables=WITH_OWN)
    took = tracked.mark(columns([mark("LONE", "price", 101.0)]))
    held = tracked.positions().filter(instrument_id="LONE")["account_id"].unique().to_list()
    names = tracked.core.state.members.accounts
    assert sorted(names[code] for code in took.accounts) == sorted(held)
    state = tracked.core.state
    found = marking.remarked(state, [Step(1, (None, "X", "last"), (90.0, 1.0))])
    assert found is not None
    ids = state.loaded.market.instruments.ids.to_list()
    assert [ids[code] for code in np.flatnonzero(found.moved)] == ["CALLX"]


@pytest.mark.parametrize("order", [1, -1])
def test_one_step_of_each_instrument_pays_as_one_after_another(order: int) -> None:
    """Whether all at once, in sequence or one by one."""
    rows = [mark(name, "price", 55.5 + n) for n, name in enumerate(LINEAR)][::order]
    states = []
    for way in ("_in_one_go", "_in_sequence", None):
        with pytest.MonkeyPatch.context() as patch:
            for name in ("_in_one_go", "_in_sequence"):
                if way != name:
                    patch.setattr(marking, name, lambda *_: False)
            live = book()
            live.apply([Record(1, "marks", columns(rows))])
        states.append(figures(live))
    for name, table in states[0].items():
        assert table.equals(states[1][name]), name
        assert table.equals(states[2][name]), name


def test_marks_of_what_becomes_valid_settle_together_as_they_do_apart() -> None:
    """The first mark makes the positions good, the second settles them."""
    rows = [mark("NOPRICE", "price", 7.0), mark("FUTX", "price", 102.0)]
    rows += [mark("NOPRICE", "price", 9.0, 2.0)]
    together, apart = book(tables=WITH_LOST), book(tables=WITH_LOST)
    together.apply([Record(3, "marks", columns(rows))])
    for number, row in enumerate(rows, 1):
        apart.apply([Record(number, "marks", columns([row]))])
    same(together, apart)
    cash = figures(together)["collateral"].filter(account_id="Q")["amount"]
    assert cash.to_list() == [3.0 * 10.0 * 2.0]


VALUES = st.sampled_from([1, 1.5, -2.0, 0.0, -0.0, 1e31, 1e-31, float("nan"), None, "1", "x", True])
TIMES = st.sampled_from(
    [0, 1.0, -5, 2**60, None, "x", "2024-03-01", "2024-03-01T12:00:00Z", " 2024-03-01", "20240301"]
)
ROWS = st.lists(
    st.tuples(
        st.sampled_from([None, "FUTX", "SPOTX", "CALLX", "NONE", "NOPRICE", "", 3]),
        st.sampled_from([None, None, "X", "Z", "NONE"]),
        st.sampled_from(["price", "price", "implied_vol", "forward", "last", "Price ", "x", None]),
        st.one_of(st.sampled_from([1.0, 2, 7.5]), VALUES),
        st.one_of(st.just(1.0), st.just("2024-03-01T12:00:00Z"), TIMES),
    ),
    min_size=1,
    max_size=3,
)


@given(ROWS, st.sets(st.sampled_from(["instrument_id", "factor"]), max_size=1))
@settings(max_examples=300, deadline=None)
def test_marks_taken_in_one_go_are_those_that_the_rules_let_pass(
    rows: Any, left_out: set[str]
) -> None:
    names = ("instrument_id", "factor", "field", "value", "time")
    batch = {key: [row[n] for row in rows] for n, key in enumerate(names) if key not in left_out}
    state = _STATE
    at_once = mark_batches._in_one_go(batch, state)
    if at_once is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mark_batches, "_in_one_go", lambda *_: None)
        ruled = mark_batches.marks_of(batch, state)
    assert ruled.failures.is_empty()
    assert at_once == ruled.rows


_STATE = case.tracker().core.state


# ---------------------------------------------------------------- devices


def _devices() -> list[Any]:
    found = [pytest.param(cupy_on_cpu.load(), id="cupy on the CPU")]
    for name in ("numba", "jax", "cupy"):
        marks = [pytest.mark.gpu] if name == "cupy" else []
        try:
            found.append(pytest.param(backends.load(name), id=name, marks=marks))
        except BackendUnavailable:
            continue
    return found


@pytest.mark.parametrize("few", [0, 2048])
@pytest.mark.parametrize("device", _devices())
def test_vectors_on_devices(device: Any, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written in place or made beside, on libraries whose arrays can be written to or cannot."""
    coming: Any = [
        ("fill", fill("1", "A", "FUTX", 2.0, 100.0)),
        ("mark", mark("FUTX", "price", 103.0, 1.0)),
        ("fill", fill("2", "NEW", "PERPY", -2.0, 100.0)),
        ("mark", mark(None, "last", 90.0, 2.0, factor="X")),
        ("mark", mark("FUTX", "price", 99.0, 3.0)),
        ("fill", fill("3", "C", "PUTY", -2.0, 1.0)),
    ]
    live, reference = book(device), book("numpy")
    for one, sets in ((live, few), (reference, 2048 - few)):
        monkeypatch.setattr(coverage, "_FEW_SETS", sets)
        for group in grouped(records(coming, [1]), [1]):
            one.apply(group)
    if device.exact:
        same(live, reference)
    whatifs: Any = [("A", None, {"FUTX": 1.0}), ("NEW", None, {"SPOTX": 1.0, "CALLX": 2.0})]
    found = live.ask(live.encode(whatifs)).models["es"]
    right = reference.ask(reference.encode(whatifs)).models["es"]
    assert found.after.tolist() == pytest.approx(right.after.tolist(), rel=1e-12, abs=1e-9)
    assert found.before.tolist() == pytest.approx(right.before.tolist(), rel=1e-12, abs=1e-9)


def test_numba_gives_the_same_bits_with_threads_and_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numba = pytest.importorskip("numba")
    assert numba is not None
    device = backends.load("numba")
    import gpu_margin.cpu_fallback.numba_backend as module

    rng = np.random.default_rng(1)
    size = rng.integers(0, 20, 300)
    offsets = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    column = rng.integers(0, 50, offsets[-1])
    rows = Rows(offsets, column, rng.normal(size=offsets[-1]))
    matrix = rng.normal(size=(50, 40))
    square = rng.normal(size=(50, 50))
    measures = [TailMeasure((1.0, 1.0, 0.5), 2.5), TailMeasure((1.0,))]
    found = []
    for little in (0, 1 << 60):
        monkeypatch.setattr(module, "_LITTLE", little)
        tail = device.tail(rows, matrix, measures, scenarios=True)
        found.append(
            (
                tail.value,
                tail.worst,
                tail.scenarios,
                device.weighted_sum(rows, matrix),
                device.quadratic_form(rows, square),
                device.segment_sum(rows.value, offsets),
            )
        )
    # A caller who finds the threads taken does the work alone.
    monkeypatch.setattr(module, "_LITTLE", 0)
    with module._THREADS:
        found.append((*found[0][:3], device.weighted_sum(rows, matrix), *found[0][4:]))
    for other in found[1:]:
        for first, second in zip(found[0], other, strict=True):
            assert np.array_equal(first, second)
