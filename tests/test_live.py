"""The live book: records in any grouping, restarts, readers beside a writer, and runs beside it."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import live_case
import numpy as np
import polars as pl
import pytest
import strict_backend
import tracker_case as case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_case import applied, book, grouped, records, same, same_as_run
from test_tracker import COMING, CUTS
from tracker_case import BETWEEN_VENUES, TABLES, columns, fill, mark

from gpu_margin.failures import ConfigError, InputError
from gpu_margin.live import LiveBook
from gpu_margin.records import Outcome, Record
from gpu_margin.tracking import coverage

ANY = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Beside good rows, those that fail or are skipped, and a mark that makes an instrument valid.
BAD = st.sampled_from(
    [
        ("fill", fill("b1", "A", "NONE", 1.0, 1.0)),
        ("fill", fill("b2", "A", "NOPRICE", 1.0, 1.0)),
        ("fill", fill("b3", "A", "FUTX", 0.0, 1.0)),
        ("fill", fill("b4", "A", "FUTX", "many", 1.0)),
        ("fill", fill("1", "A", "FUTX", 1, 1)),
        ("fill", fill("b5", "A", "FUTX", 1e20, 1e20)),
        ("mark", mark("SPOTX", "price", -1.0)),
        ("mark", mark("FUTX", "price", "x")),
        ("mark", mark("FUTX", "price", 3.0, -5.0)),
        ("mark", mark("FUTX", "price", 101, "2024-03-01T12:00:00Z")),
        ("mark", mark("NOPRICE", "price", 7.0)),
        ("mark", mark("NOPRICE", "price", 9.0, 2.0)),
    ]
)
MIXED = st.lists(st.one_of(COMING, st.lists(BAD, max_size=2)), min_size=1, max_size=4).map(
    lambda parts: [one for part in parts for one in part]
)
GROUPS = st.lists(st.integers(1, 9), min_size=1, max_size=10)
HELD = {"account_id": ["A", "Q"], "instrument_id": ["NOPRICE"] * 2, "quantity": [2.0, 3.0]}
WITH_LOST = {
    **TABLES,
    "positions": pl.concat(
        [
            TABLES["positions"],
            pl.DataFrame(HELD).with_columns(pl.lit(None, pl.String).alias("netting_set")),
        ]
    ),
}


# ---------------------------------------------------------------- what comes in


@pytest.mark.parametrize("tables", [TABLES, BETWEEN_VENUES], ids=["alone", "between venues"])
@given(COMING, CUTS, GROUPS)
@ANY
def test_the_state_is_that_of_a_run(
    tables: Any, coming: Any, cuts: list[int], groups: list[int]
) -> None:
    live = book("numba", "in_scenarios" if len(coming) % 2 else "haircut", tables)
    applied(live, grouped(records(coming, cuts), groups))
    with tempfile.TemporaryDirectory() as folder:
        same_as_run(live, Path(folder), "numba")


@given(MIXED, CUTS, GROUPS, st.sampled_from([0, 2048]))
@ANY
def test_neither_outcomes_nor_bits_depend_on_how_records_are_grouped(
    coming: Any, cuts: list[int], groups: list[int], few: int
) -> None:
    one, other, replayed = (book(tables=WITH_LOST) for _ in range(3))
    log = records(coming, cuts)
    apart = applied(one, grouped(log, [1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "_FEW_SETS", few)
        together = applied(other, grouped(log, groups))
    assert apart == together
    assert [outcome.state_seq for outcome in apart] == [record.seq for record in log]
    for outcome, record in zip(apart, log, strict=True):
        rows = {failure["row"] for failure in outcome.failures} | {*outcome.skipped}
        assert outcome.applied + len(rows) == record.count
    same(one, other)
    assert replayed.replay(iter(log)) == len(log)
    same(one, replayed)


def test_what_becomes_of_each_record() -> None:
    live = book()
    log = [
        Record(5, "fills", columns([fill("1", "A", "FUTX", 1.0, 100.0)])),
        Record(
            6, "fills", columns([fill("1", "A", "FUTX", 1.0, 100.0), fill("2", "B", "X", 1, 1)])
        ),
        Record(7, "fills", {"fill_id": ["3"], "account_id": []}),
        Record(8, "fills", {"fill_id": ["3"], "account_id": ["A"]}),
        Record(9, "marks", columns([mark("FUTX", "price", 9.0), mark("FUTX", "price", 8.0, 0.5)])),
        Record(10, "marks", {"field": ["price"], "value": [1.0], "time": []}),
    ]
    found = live.apply(log)
    assert found[0] == Outcome(5, 1)
    assert (found[1].applied, found[1].skipped) == (0, [1])
    assert [(one["row"], one["field"], one["value"]) for one in found[1].failures] == [
        (2, "instrument_id", "X")
    ]
    assert (found[2].applied, found[3].applied) == (0, 0)
    assert "different lengths" in found[2].failures[0]["reason"]
    assert "missing column" in found[3].failures[0]["reason"]
    assert (found[4].applied, found[4].skipped) == (1, [2])
    assert (found[5].applied, live.sequence) == (0, 10)


def test_a_long_record_is_booked_in_pieces_and_counts_when_it_is_whole() -> None:
    rows = [fill(str(n), f"n{n % 300}", "FUTX", 1.0, 100.0) for n in range(1000)]
    live, seen = book(), []
    turn = live.core.turn

    def changing() -> Any:
        seen.append((live.sequence, live.core.sequence))
        return turn()

    live.turns.changing = changing  # type: ignore[method-assign]
    live.apply([Record(1, "fills", columns(rows)), Record(2, "fills", columns([rows[0]]))])
    assert [sequence for _, sequence in seen] == [0, 256, 512, 768]
    assert {sequence for sequence, _ in seen} == {0}
    assert live.sequence == 2


def test_vectors_grow_with_the_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_margin.resident._FEW", 3)
    for device in ("numpy", strict_backend.BACKEND):
        live = book(device)
        rows = [fill(str(n), f"n{n}", "FUTX", 1.0 + n, 100.0) for n in range(40)]
        for number, row in enumerate(rows, 1):
            live.apply([Record(number, "fills", columns([row]))])
        same_as_run(live, tmp_path / str(device))


def test_marks_that_fail_on_the_way_leave_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    for few in (0, 2048):
        monkeypatch.setattr(coverage, "_FEW_SETS", few)
        live, other = book(), book()
        before, calls = live_case.figures(live), [0]
        happened = coverage.Coverage._stand

        def fails(self: Any, accounts: Any, calls: list[int] = calls, own: Any = happened) -> None:
            calls[0] += 1
            if calls[0] == 3:
                raise MemoryError
            own(self, accounts)

        record = Record(1, "marks", columns([mark("FUTX", "price", 120.0)]))
        with monkeypatch.context() as patch:
            patch.setattr(coverage.Coverage, "_stand", fails)
            with pytest.raises(MemoryError):
                live.apply([record])
        for name, table in live_case.figures(live).items():
            assert table.equals(before[name]), name
        asked = live.ask(live.encode([("A", None, {"SPOTX": 1.0})]))
        again = other.ask(other.encode([("A", None, {"SPOTX": 1.0})]))
        assert asked.models["es"].after.tolist() == again.models["es"].after.tolist()
        live.apply([record])
        other.apply([record])
        same(live, other)


# ---------------------------------------------------------------- restarts


@given(MIXED, CUTS, st.integers(0, 10))
@ANY
def test_a_restart_with_a_replay_is_as_if_it_had_never_stopped(
    coming: Any, cuts: list[int], stop: int
) -> None:
    log = records(coming, cuts)
    through, stopped = book(tables=WITH_LOST), book(tables=WITH_LOST)
    expected = applied(through, grouped(log, [3]))
    applied(stopped, grouped(log[:stop], [3]))
    with tempfile.TemporaryDirectory() as folder:
        stopped.snapshot(Path(folder) / "book")
        restored = LiveBook.restore(Path(folder) / "book", "numpy")
        lazy = LiveBook.restore(Path(folder) / "book", "numpy", measured=False)
    same(stopped, restored)
    assert restored.events_after(0) == stopped.events_after(0)
    assert restored.apply(log[stop:]) == expected[stop:]
    lazy.replay(iter(log[stop:]))
    same(through, restored)
    same(through, lazy)
    with tempfile.TemporaryDirectory() as folder:
        same_as_run(restored, Path(folder))


def test_snapshots_of_other_kinds_are_refused(tmp_path: Path) -> None:
    import json
    import zipfile

    live = book()
    live.snapshot(tmp_path / "book")
    with zipfile.ZipFile(tmp_path / "book") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    meta = json.loads(parts.pop("tracker.json"))
    for change, reason in (({"format": 1}, "format 1, not 2"), ({"sequence": None}, "sequence")):
        with zipfile.ZipFile(tmp_path / "other", "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
            archive.writestr("tracker.json", json.dumps(meta | change))
        if change.get("format"):
            with pytest.raises(InputError, match=reason):
                LiveBook.restore(tmp_path / "other", "numpy")


def test_another_device_goes_on_with_the_same_state() -> None:
    live = book("numpy")
    live.apply([Record(1, "fills", columns([fill("1", "A", "FUTX", 2.0, 100.0)]))])
    before = live_case.figures(live)
    live.replace_backend("numba")
    assert live.backend.name == "numba"
    for name, table in live_case.figures(live).items():
        assert table.equals(before[name]), name


# ---------------------------------------------------------------- beside a writer


@pytest.mark.parametrize("few", [0, 2048])
def test_every_answer_is_that_of_the_state_whose_number_it_has(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers beside the writer, against a replica that takes one record after another."""
    monkeypatch.setattr(coverage, "_FEW_SETS", few)
    rng = np.random.default_rng(5)
    coming: Any = []
    for number in range(120):
        if number % 5 == 4:
            value = float(rng.uniform(80, 120))
            coming.append(("mark", mark("FUTX", "price", value, float(number))))
        else:
            account = str(rng.choice(["A", "B", "C", "NEW", f"n{number}"]))
            size = float(rng.normal(scale=3))
            coming.append(("fill", fill(str(number), account, "FUTX", size, 100.0)))
    log = records(coming, [1])
    whatifs = [("A", None, {"FUTX": 1.0}), ("B", "s1", {"SPOTX": 2.0}), ("C", None, {"PUTY": -3.0})]
    live, replica = book("numba"), book("numba")
    answers: list[Any] = []
    accounts: list[Any] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set() and len(answers) < 20_000:
            legs = live.encode(whatifs)
            with live.turns.asking():
                answers.append(live.ask(legs))
                accounts.append(live.account("A"))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for group in grouped(log, [1, 4, 2, 7]):
        live.apply(group)
    over.set()
    for reader in readers:
        reader.join()
    expected, views = {0: replica.ask(replica.encode(whatifs))}, {0: replica.account("A")}
    for record in log:
        replica.apply([record])
        expected[record.seq] = replica.ask(replica.encode(whatifs))
        views[record.seq] = replica.account("A")
    assert len({answer.state_seq for answer in answers}) > 3
    for answer in answers:
        right = expected[answer.state_seq]
        for model, found in answer.models.items():
            assert found.before.tolist() == right.models[model].before.tolist()
            assert found.after.tolist() == right.models[model].after.tolist()
            assert found.status.tolist() == right.models[model].status.tolist()
    for view in accounts:
        assert view == views[view["state_seq"]]
    same(live, replica)


# ---------------------------------------------------------------- what is known


def test_an_account_is_as_the_tables_have_it() -> None:
    live = book(tables=BETWEEN_VENUES)
    live.apply([Record(3, "fills", columns([fill("1", "A", "FUTX", 2.0, 100.0)]))])
    for model in live.models:
        table = live_case.tracker(live).accounts(model)
        for row in table.filter(pl.col("netting_set").is_null()).iter_rows(named=True):
            view = live.account(row["account_id"])
            assert view is not None
            own = view["models"][model]
            assert view["state_seq"] == 3
            assert own["levels"]["initial"] == row["initial"]
            assert own["levels"]["maintenance"] == row["maintenance"]
            for name in ("collateral_value", "excess", "utilisation", "status", "call"):
                assert own[name] == row[name], name
            assert sum(own["components"].values()) == pytest.approx(own["requirement"] or 0.0)
    capped = live.account("A")
    assert capped is not None
    assert set(capped["models"]["capped"]["components"]) == {"expected_shortfall", "offset_cap"}
    assert len(capped["netting_sets"]) == 2
    assert live.account("nobody") is None


def test_an_account_without_collateral_or_positions() -> None:
    live = book(
        tables={name: TABLES[name] for name in ("positions", "instruments", "history", "fx")}
    )
    view = live.account("A")
    assert view is not None
    assert (view["status"], view["collateral_value"]) == (None, None)
    assert view["models"]["es"]["levels"]["initial"] == view["models"]["es"]["requirement"]
    view = book().account("F")  # nothing but collateral
    assert view is not None
    assert (view["status"], view["complete"]) == ("ok", True)


def test_totals() -> None:
    live = book()
    found = live.summary()
    table = live_case.tracker(live).accounts("es").filter(pl.col("netting_set").is_null())
    assert found["accounts"] == len(table)
    assert found["models"]["es"]["initial"] == pytest.approx(table["initial"].sum())
    statuses = found["models"]["es"]["statuses"]
    assert statuses["ok"] == (table["status"] == "ok").sum()
    assert sum(statuses.values()) == len(table)


def test_explanations_add_up() -> None:
    live = book()
    live.apply([Record(1, "fills", columns([fill("1", "A", "FUTX", 2.0, 100.0)]))])
    for model in live.models:
        found = live.explain("A", model)
        assert found is not None
        view = live.account("A")
        assert view is not None
        if model in ("es", "cov", "mixed"):
            total = found.positions["contribution"].sum()
            assert total == pytest.approx(view["models"][model]["requirement"])
    assert live.explain("nobody") is None
    with pytest.raises(ConfigError, match="the models are"):
        live.explain("A", "other")
    with pytest.raises(InputError, match="no good position"):
        live.explain("F")


def test_events_have_the_numbers_of_states() -> None:
    live = book()
    rows = [fill("1", "N", "FUTX", 1.0, 150.0), fill("2", "M", "FUTX", 1.0, 150.0)]
    live.apply(
        [
            Record(7, "fills", columns(rows[:1])),
            Record(8, "marks", columns([mark("FUTX", "price", 99.0)])),
        ]
    )
    live.apply([Record(9, "fills", columns(rows[1:]))])
    events = live.events_after(0)
    assert {event.model for event in events} == set(live.models)
    assert [event.sequence for event in events] == sorted(event.sequence for event in events)
    assert {event.account_id for event in live.events_after(8)} == {"M"}
    assert live.events_after(9) == []


def test_inputs_of_a_gate() -> None:
    live = book()
    sets = np.array([live.set_code("A", "iso"), -1, live.set_code("A")])
    found = live.gate_inputs("es", sets)
    assert found.matrix is not None
    assert found.line[1] == -1
    for place, rows in ((0, "iso"), (2, "A")):
        own = live_case.tracker(live).positions().filter(account_id="A", netting_set=rows)
        first, last = found.rows.offsets[place : place + 2]
        assert found.rows.value[first:last].tolist() == own["quantity"].to_list()
        vector = found.rows.value[first:last] @ found.matrix[found.rows.column[first:last]]
        assert found.matrix[found.line[place]].tolist() == pytest.approx(vector.tolist())
    assert (
        found.collateral[0]
        == live_case.tracker(live)
        .accounts("es")
        .filter(account_id="A", netting_set="iso")["collateral_value"]
        .item()
    )
    assert found.collateral[1] == 0.0
    assert live.gate_inputs("cov", sets).matrix is None


def test_accounts_by_prefix() -> None:
    assert book().accounts_like("", 3) == ["A", "B", "C"]
    assert book().accounts_like("zz", 3) == []
    assert case.MULTIPLIER["FUTX"] == 10.0


def test_an_id_that_the_book_refused_may_come_again_however_fills_are_grouped() -> None:
    """Singly, as one group, and replayed: a refused fill leaves its id free for the next."""
    quantity = [("1", 9e27), ("x", 1e30), ("x", 1.0), ("x", 2.0)]
    fills = [columns([fill(name, "A", "FUTX", size, 100.0)]) for name, size in quantity]
    log = [Record(number, "fills", rows) for number, rows in enumerate(fills, 1)]
    singly, together, replayed = book(), book(), book()
    outcomes = [singly.apply([record])[0] for record in log]
    assert [one.applied for one in outcomes] == [1, 0, 1, 0]
    assert outcomes[3].skipped == [1]
    assert together.apply(log) == outcomes
    replayed.replay(iter(log))
    same(together, singly)
    same(replayed, singly)
