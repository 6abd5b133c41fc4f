"""The book behind the server: opened, kept, and found again as it was."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import live_case
import numpy as np
import polars as pl
import pytest
from serve_process import small_book
from tracker_case import Row, columns, fill, mark

from gpu_margin.failures import InputError
from gpu_margin.records import Record
from gpu_margin.server import recovery
from gpu_margin.server.board import mark_rows
from gpu_margin.server.house import House
from gpu_margin.server.log import Entry, LogError, digest
from gpu_margin.server.problems import Problem
from gpu_margin.server.serving import assemble

Work = Callable[[House], None]


def in_house(config: Path, *works: Work, crash: bool = False) -> None:
    """Open the book, do one work after another in a thread, and close it or `crash`."""

    async def main() -> None:
        house = assemble(config, "numpy").house
        await house.start()
        assert house._opening is not None
        await house._opening
        try:
            if house.failure is not None:
                raise house.failure
            for work in works:
                await asyncio.wait_for(asyncio.to_thread(work, house), 60)
        finally:
            if crash:
                house._unsaved = 0  # nothing but the log is left of what came last
            await house.stop()

    asyncio.run(main())


def send(house: House, kind: Any, key: str, *rows: Row) -> Any:
    """The answer to a change."""
    values = columns(rows)
    entry = Entry("desk", None, key, digest(kind, values), kind, values)
    assert house.threads.writer is not None
    return house.threads.writer.submit([entry]).result(30)[0]


def fills(start: int, stop: int) -> Work:
    """One fill after another, each a request of its own."""

    def work(house: House) -> None:
        for number in range(start, stop):
            row = fill(f"f{number}", "ABC"[number % 3], "FUTX", number % 5 - 1.5, 100.0 + number)
            assert send(house, "fills", f"k{number}", row)["applied"] == 1

    return work


def marks(house: House) -> None:
    """New accounts, an instrument that gets its first price, and older ones that move."""
    assert send(house, "marks", "m1", mark("FUTX", "price", 102.0, 10.0))["applied"] == 1
    new = [fill(f"o{name}", name, "FUTX", 1.0, 100.0) for name in ("new-1", "new-2", "new-3")]
    assert send(house, "fills", "o", *new)["applied"] == 3
    found = send(
        house,
        "marks",
        "m2",
        mark("NOPRICE", "price", 7.0, 20.0),
        mark(None, "last", 101.0, 21.0, factor="X"),
        mark("FUTX", "price", 103.0, 22.0),
    )
    assert found["applied"] == 3 and not found["failures"]
    assert send(house, "fills", "n", fill("n", "A", "NOPRICE", 5.0, 7.5))["applied"] == 1
    assert send(house, "marks", "m3", mark("NOPRICE", "price", 7.5, 30.0))["applied"] == 1


def keeping(found: list[House]) -> Work:
    return found.append


def same_boards(one: House, other: House) -> None:
    first, second = one.answering.board, other.answering.board
    assert first.table().equals(second.table())
    assert first.places.of_instrument == second.places.of_instrument
    assert np.array_equal(first.places.underlying, second.places.underlying)


def snapshots(config: Path) -> list[Path]:
    return recovery.snapshots(config.parent / "server-state")


# ---------------------------------------------------------------- starts


def test_it_goes_on_where_it_was_by_a_snapshot_or_by_the_log_alone(tmp_path: Path) -> None:
    """A book that never stopped, one that stopped in between, and one that crashed."""
    books: list[House] = []
    for name, crash in (("stopped", False), ("crashed", True)):
        config = small_book(tmp_path / name)
        in_house(config, fills(0, 20), marks, crash=crash)
        assert len(snapshots(config)) == (not crash)
        in_house(config, fills(20, 40), keeping(books))
    config = small_book(tmp_path / "whole")
    in_house(config, fills(0, 20), marks, fills(20, 40), keeping(books))
    for one in books[:2]:
        live_case.same(one.answering.book, books[2].answering.book)
        same_boards(one, books[2])
        assert one.log.last() == 45


def test_a_price_that_makes_an_instrument_is_on_the_board_after_a_replay(tmp_path: Path) -> None:
    """Z is only marked by NOPRICE, which the board does not know before its first price."""
    config, found = small_book(tmp_path), list[House]()
    in_house(config, marks, keeping(found), crash=True)
    in_house(config, keeping(found))
    before, after = (one.answering.board.table() for one in found)
    assert "NOPRICE" in before["instrument_id"].to_list()
    assert before.equals(after)
    same_boards(*found)


def test_the_board_takes_no_value_that_the_book_refuses() -> None:
    values = [5e-324, 1e-31, 1e31, -1e31, float("nan"), float("inf"), "7", None, 7.0, 1e-30, 0, -7]
    rows = [mark("FUTX", "price", value, 1.0) for value in values]
    taken = [row[3] for row in mark_rows(Record(1, "marks", columns(rows)))]
    assert taken == [7.0, 1e-30, 0.0, -7.0]


def test_a_start_without_a_change_keeps_no_snapshot_and_one_behind_a_replay_does(
    tmp_path: Path,
) -> None:
    config = small_book(tmp_path)
    in_house(config)
    assert snapshots(config) == []
    in_house(config, fills(0, 3), crash=True)
    assert snapshots(config) == []
    in_house(config)
    assert [one.name for one in snapshots(config)] == ["book-000000000000003.snapshot"]


def test_damaged_snapshots_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("gpu_margin"), "propagate", True)
    config, found = small_book(tmp_path), list[House]()
    for first in (0, 10, 20):
        in_house(config, fills(first, first + 10), keeping(found))
    assert len(snapshots(config)) == 2  # as many as are kept
    newest, older = snapshots(config)
    newest.write_bytes(newest.read_bytes()[:-200])
    for _ in range(2):
        in_house(config, keeping(found))
        live_case.same(found[-1].answering.book, found[2].answering.book)
        same_boards(found[-1], found[2])
        older.with_suffix(recovery.BOARD).write_bytes(b"no table")
    assert "a snapshot is left out" in caplog.text


def test_other_models_in_the_configuration_are_those_that_count(tmp_path: Path) -> None:
    """A snapshot has the models of its time; what was booked is under the new ones."""
    config, found = small_book(tmp_path), list[House]()
    in_house(config, fills(0, 10), keeping(found))
    text = config.read_text()
    config.write_text(text.replace("confidence = 0.9\n", "confidence = 0.8\n"))
    assert config.read_text() != text
    in_house(config, keeping(found))
    before, after = (one.answering.book for one in found)
    name = "positions"
    assert live_case.figures(before)[name].equals(live_case.figures(after)[name])
    live_case.same_as_run(after, tmp_path / "export")
    assert before.account("A") != after.account("A")


def test_a_gate_of_its_own_needs_no_other_book(tmp_path: Path) -> None:
    """The server's own tables may change: the snapshot is good as it is."""
    config, found = small_book(tmp_path), list[House]()
    in_house(config, fills(0, 10), keeping(found))
    config.write_text(config.read_text() + "[server]\nkeep_snapshots = 1\n")
    damaged = config.parent / "positions.parquet"
    in_house(config, keeping(found))
    live_case.same(*(one.answering.book for one in found))
    assert damaged.exists()


def test_the_log_of_other_inputs_is_refused(tmp_path: Path) -> None:
    config = small_book(tmp_path)
    in_house(config, fills(0, 3))
    history = tmp_path / "history.parquet"
    pl.read_parquet(history).with_columns(pl.col("price") * 1.01).write_parquet(history)
    with pytest.raises(InputError, match="the log of another book"):
        in_house(config)


def test_a_log_that_was_lost_is_not_begun_anew_beside_its_snapshots(tmp_path: Path) -> None:
    """They would come into force again as soon as the new log were as long as the old one."""
    config = small_book(tmp_path)
    in_house(config, fills(0, 3))
    for one in (tmp_path / "server-state").glob("log.sqlite*"):
        one.unlink()
    with pytest.raises(InputError, match=r"the log ends with record 0.*put the right one back"):
        in_house(config)
    for one in snapshots(config):
        one.unlink()
    in_house(config, fills(0, 3))


def test_what_a_crash_left_is_taken_away(tmp_path: Path) -> None:
    config = small_book(tmp_path)
    in_house(config, fills(0, 3))
    state = tmp_path / "server-state"
    (state / ".book-000000000000002.snapshot.123.tmp").write_bytes(b"half")
    (state / "book-000000000000002.marks").write_bytes(b"alone")
    kept = {one.name for one in state.glob("book-*")} - {"book-000000000000002.marks"}
    in_house(config)
    assert {one.name for one in state.glob("*book-*")} == kept


# ---------------------------------------------------------------- saving


def test_snapshots_are_made_every_so_many_rows_and_only_the_last_are_kept(tmp_path: Path) -> None:
    config = small_book(tmp_path, "[server]\nsnapshot_rows = 5\nkeep_snapshots = 3\n")

    def work(house: House) -> None:
        for first in range(0, 40, 5):
            fills(first, first + 5)(house)
            assert house._saving is not None
            house._saving.join()
            assert house.saved is not None and house.saved["state_seq"] == first + 5

    in_house(config, work)
    found = [int(one.stem.removeprefix("book-")) for one in snapshots(config)]
    assert found == [40, 35, 30]
    assert all(one.with_suffix(recovery.BOARD).exists() for one in snapshots(config))
    assert len(list((tmp_path / "server-state").glob("book-*"))) == 6


def test_a_snapshot_that_is_begun_between_fills_is_of_that_moment(tmp_path: Path) -> None:
    """Fills go on while it is written; what is in the file is the state of its number."""
    config, kept, numbers = small_book(tmp_path), list[Any](), itertools.count(1000)

    def work(house: House) -> None:
        stop, writer = threading.Event(), house.threads.writer
        assert writer is not None

        def stream() -> None:
            while not stop.is_set():
                number = next(numbers)
                fills(number, number + 1)(house)

        thread = threading.Thread(target=stream)
        thread.start()
        for _ in range(8):
            write = writer.call(house.begin_save).result(30)
            before = house.answering.book.sequence
            kept.append(write())
            assert kept[-1]["state_seq"] <= before
        stop.set()
        thread.join()

    config.write_text(config.read_text() + "[server]\nkeep_snapshots = 100\n")
    in_house(config, work)
    found = {int(one.stem.removeprefix("book-")): one for one in snapshots(config)}
    assert {one["state_seq"] for one in kept} <= found.keys()
    for sequence, path in found.items():
        told = live_case.book()
        for number in range(1000, 1000 + sequence):
            row = fill(f"f{number}", "ABC"[number % 3], "FUTX", number % 5 - 1.5, 100.0 + number)
            told.apply(live_case.records([("fill", row)], [1], told.sequence + 1))
        live_case.same(live_case.LiveBook.restore(path, "numpy"), told)


@pytest.mark.parametrize("fault", ["begin", "write"])
def test_a_snapshot_that_fails_hurts_no_fill(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where the log cannot be written at that moment, and not where the disk is full."""
    config = small_book(tmp_path, "[server]\nsnapshot_rows = 5\n")

    def fails(*_: Any) -> None:
        raise LogError("no") if fault == "begin" else OSError(28, "No space left on device")

    def work(house: House) -> None:
        with monkeypatch.context() as broken:
            if fault == "begin":
                broken.setattr(house.log, "flush", fails)
            else:
                broken.setattr("gpu_margin.server.house.write_atomically", fails)
            fills(0, 7)(house)
            if house._saving is not None:
                house._saving.join()
        assert house.threads.writer is not None and not house.threads.writer.broken
        assert house.saved is None and snapshots(config) == []
        fills(7, 20)(house)

    in_house(config, work)
    assert len(snapshots(config)) >= 1


def test_what_cannot_be_kept_at_the_end_is_still_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    config, found = small_book(tmp_path), list[House]()
    with monkeypatch.context() as broken:
        broken.setattr("gpu_margin.server.house.write_atomically", fails)
        in_house(config, fills(0, 5), keeping(found))
    assert snapshots(config) == []
    in_house(config, keeping(found))
    live_case.same(*(one.answering.book for one in found))


# ---------------------------------------------------------------- faults


def test_where_no_device_is_left_changes_are_refused_and_a_restart_brings_them_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, found = small_book(tmp_path), list[House]()

    def work(house: House) -> None:
        fills(0, 3)(house)

        def fails(*_: Any) -> None:
            raise RuntimeError("the device has gone")

        monkeypatch.setattr(house.answering.book, "apply", fails)
        for number in (3, 4):
            with pytest.raises(Exception, match="the book could not be changed"):
                fills(number, number + 1)(house)

    in_house(config, work)
    assert snapshots(config) == []  # of a book that is not that of its log
    in_house(config, lambda house: fills(3, 4)(house), keeping(found))
    assert found[0].log.last() == 4


@pytest.mark.parametrize("replaced", [False, True], ids=["same inputs", "other inputs"])
def test_a_device_that_fails_a_change_is_replaced_and_the_book_made_again(
    replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its log, and only on the inputs that the log is of."""
    config, found = small_book(tmp_path), list[House]()

    def work(house: House) -> None:
        fills(0, 3)(house)
        assert house._device is not None
        monkeypatch.setattr(house._device, "give_up", lambda *_: None)

        def fails(*_: Any) -> None:
            raise RuntimeError("the device has gone")

        monkeypatch.setattr(house.answering.book, "apply", fails)
        if replaced:
            history = tmp_path / "history.parquet"
            pl.read_parquet(history).with_columns(pl.col("price") * 1.01).write_parquet(history)
            with pytest.raises(Problem, match="no longer those of the log"):
                fills(3, 4)(house)
            return
        fills(3, 6)(house)
        assert house.metrics.backend_replacements == 1 and len(house.faults) == 1
        told = live_case.book()
        for record in house.log.records(0):
            told.apply([record])
        live_case.same(house.answering.book, told)

    in_house(config, work, keeping(found))
    assert found[0].log.last() == 4 + 2 * (not replaced)


def test_a_book_that_cannot_be_opened_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("gpu_margin"), "propagate", True)
    config = small_book(tmp_path)
    (tmp_path / "history.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match="no instrument is valid"):
        in_house(config)
    (told,) = (one for one in caplog.records if one.message == "rows of the inputs failed")
    assert vars(told)["first"][0]["source"] == "history.parquet"
