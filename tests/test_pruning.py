"""The log forgets what all snapshots have, and nothing that a restart or a client may need."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import live_case
import pytest
from serve_process import small_book
from test_serve_command import ends_with
from test_server_house import fills, in_house, keeping, marks, same_boards, send, snapshots
from tracker_case import fill

from gpu_margin.failures import InputError
from gpu_margin.server import pruning, sqlite_log
from gpu_margin.server.house import House
from gpu_margin.server.log import Log, LogError
from gpu_margin.server.sqlite_log import SqliteLog


@pytest.fixture(autouse=True)
def _slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that there are many of them."""
    monkeypatch.setattr(sqlite_log, "SLICE", 3)
    monkeypatch.setattr(pruning, "_PAUSE", 0.001)


def records(house: House, after: int) -> list[int]:
    return [one.seq for one in house.log.records(after)]


def save(house: House) -> None:
    """A snapshot, and what may be forgotten then has been."""
    assert house.threads.writer is not None and house._pruning is not None
    house.threads.writer.call(house.begin_save).result(30)()
    thread = house._pruning._thread
    assert thread is not None
    thread.join(30)
    assert not thread.is_alive()


def test_what_all_snapshots_have_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    config = small_book(tmp_path, "[server]\nkeep_snapshots = 3\n")
    seen: list[int] = []

    def work(house: House) -> None:
        for first in range(0, 50, 10):
            fills(first, first + 10)(house)
            save(house)
            seen.append(house.log.pruned())
        assert records(house, 30) == list(range(31, 51))
        with pytest.raises(LogError, match="record 30 was pruned"):
            records(house, 29)

    in_house(config, work)
    # With two snapshots the older one may be fallen back to, with more the oldest.
    assert seen == [0, 10, 10, 20, 30]


def test_a_book_comes_back_the_same_from_a_pruned_log(tmp_path: Path) -> None:
    """By its newest snapshot, by the oldest one, and after a crash; keys have their answers."""
    books: list[House] = []
    config = small_book(tmp_path / "pruned")

    def first(house: House) -> None:
        fills(0, 10)(house)
        row = fill("f0", "A", "FUTX", -1.5, 100.0)
        found = send(house, "fills", "k0", row)
        assert (found["state_seq"], found["applied"]) == (1, 1)  # the first answer, again

    in_house(config, first, save, marks, save, fills(10, 20), save, keeping(books))
    assert books[0].log.pruned() == 15
    newest, _ = snapshots(config)
    in_house(config, fills(20, 30), first_again, keeping(books), crash=True)
    newest.write_bytes(newest.read_bytes()[:-200])
    in_house(config, first_again, keeping(books))
    whole = small_book(tmp_path / "whole", "[server]\nkeep_snapshots = 1\n")
    in_house(whole, first, save, marks, save, fills(10, 20), save, fills(20, 30), keeping(books))
    assert books[-1].log.pruned() == 0 and books[-2].log.last() == 35
    for one in books[1:3]:
        live_case.same(one.answering.book, books[-1].answering.book)
        same_boards(one, books[-1])


def first_again(house: House) -> None:
    """A request of which the log has no rows any more."""
    last = house.log.last()
    assert house.log.pruned() >= 10
    row = fill("f7", "ABC"[7 % 3], "FUTX", 7 % 5 - 1.5, 107.0)
    found = send(house, "fills", "k7", row)
    assert (found["state_seq"], found["applied"], house.log.last()) == (8, 1, last)


@pytest.mark.parametrize(
    ("settings", "pruned"),
    [
        ("prune = false", 0),
        ("url = 'sqlite:///log.sqlite'", 0),
        ("url = 'sqlite:///../elsewhere.sqlite'", 0),
        ("url = 'sqlite:///../elsewhere.sqlite'\nprune = true", 20),
        ("prune = true", 20),
        ("", 20),
    ],
)
def test_a_log_of_another_place_outlives_the_snapshots(
    settings: str, pruned: int, tmp_path: Path
) -> None:
    """As one in PostgreSQL, for a book that is to outlive its machine; unless it is said."""
    config, found = small_book(tmp_path, f"[server.log]\n{settings}\n"), list[House]()
    in_house(config, fills(0, 10))
    in_house(config, fills(10, 20))
    in_house(config, fills(20, 30), keeping(found))
    assert found[0].log.pruned() == pruned
    if not pruned:
        for one in snapshots(config):
            one.unlink()
        in_house(config, keeping(found))
        live_case.same(*(one.answering.book for one in found))


def test_a_damaged_snapshot_is_none_to_rely_on(tmp_path: Path) -> None:
    """Two files are kept, of which only one can be read: the log is needed behind it."""
    config, found = small_book(tmp_path), list[House]()
    in_house(config, fills(0, 10))
    (damaged,) = snapshots(config)
    damaged.write_bytes(b"no snapshot")
    in_house(config, fills(10, 20), keeping(found))
    assert len(snapshots(config)) == 2 and found[0].log.pruned() == 0
    snapshots(config)[0].write_bytes(b"no snapshot")
    in_house(config, fills(20, 30), keeping(found))
    assert records_of(config) == list(range(1, 31))


def records_of(config: Path) -> list[int]:
    found: list[int] = []
    in_house(config, lambda house: found.extend(records(house, 0)))
    return found


def test_without_a_snapshot_that_can_be_read_it_says_what_to_do(tmp_path: Path) -> None:
    """And does not begin anew beside a log that has only the end of the story."""
    config, found = small_book(tmp_path), list[House]()
    in_house(config, fills(0, 10))
    in_house(config, fills(10, 20), keeping(found))
    assert found[0].log.pruned() == 10  # forgotten as it stopped
    good = {one: one.read_bytes() for one in snapshots(config)}
    for one in good:
        one.write_bytes(b"no snapshot")
    said = "no snapshot there can be used.*pruned up to record 10: put a good snapshot back"
    with pytest.raises(InputError, match=said):
        in_house(config)
    ends_with(config, 3, "server-state", "no snapshot there can be used", "prune = false")
    for one, content in good.items():
        one.write_bytes(content)
    in_house(config, keeping(found))
    live_case.same(*(one.answering.book for one in found))


@pytest.mark.parametrize(
    ("old", "new"),
    [("confidence = 0.9\n", "confidence = 0.8\n"), ("[models.cov", "[models.other")],
)
def test_models_may_change_on_a_log_that_was_pruned(tmp_path: Path, old: str, new: str) -> None:
    """As if the whole log had been there, and marks settled futures on the way."""
    found: list[House] = []
    for name, settings in (("pruned", ""), ("whole", "[server.log]\nprune = false\n")):
        config = small_book(tmp_path / name, settings)
        in_house(config, fills(0, 10))
        in_house(config, fills(10, 20), keeping(found))
        assert old in config.read_text()
        config.write_text(config.read_text().replace(old, new))
        if name == "whole":
            for one in snapshots(config):
                one.unlink()
        in_house(config, keeping(found))
    before, after, _, expected = (one.answering.book for one in found)
    assert [one.log.pruned() for one in found] == [10, 10, 0, 0]
    live_case.same(after, expected)
    accounts = [one.account("A") for one in (before, after)]
    assert accounts[0] is not None and accounts[1] is not None
    assert accounts[0]["models"] != accounts[1]["models"]


def test_it_is_forgotten_by_the_writers_thread_while_fills_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has one thread that writes; between two slices it takes what came in."""
    config, threads = small_book(tmp_path), list[str]()
    numbers = itertools.count(40)
    prune = SqliteLog.prune
    house_: list[House] = []

    def watched(log: SqliteLog, before: int) -> int:
        threads.append(threading.current_thread().name)
        if house_ and threads.count("writer") in (3, 5):
            # Comes in while a slice is under way, and is taken before the next but one.
            number = next(numbers)
            row = fill(f"f{number}", "A", "FUTX", 1.0, 100.0)
            threading.Thread(target=send, args=(house_[0], "fills", f"k{number}", row)).start()
        return prune(log, before)

    def work(house: House) -> None:
        fills(0, 20)(house)
        save(house)
        fills(20, 40)(house)
        monkeypatch.setattr(SqliteLog, "prune", watched)
        house_.append(house)
        save(house)
        house_.clear()
        assert house.log.pruned() == 20
        assert threads == ["writer"] * 8  # 3 entries each, and the one that found none
        fills(next(numbers), next(numbers) + 5)(house)

    in_house(config, work)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    asked: list[Any] = []

    def fails(log: Log, before: int) -> int:
        asked.append(before)
        raise LogError("no")

    with monkeypatch.context() as broken:
        broken.setattr(SqliteLog, "prune", fails)
        yield asked


def test_a_log_that_cannot_forget_hurts_nothing(tmp_path: Path, refusing: list[Any]) -> None:
    config, found = small_book(tmp_path), list[House]()
    in_house(config, fills(0, 10), save, fills(10, 20), save, fills(20, 30), keeping(found))
    assert refusing and len(snapshots(config)) == 2
    assert found[0].threads.writer is not None and not found[0].threads.writer.broken
    in_house(config, keeping(found))
    live_case.same(*(one.answering.book for one in found))
