"""What is in the book, asked over HTTP by many at once, is what a run and a replica say."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import live_case
import msgspec
import pytest
from running_case import Running, running
from serve_process import keys_in, small_book
from test_live_asking import ACCOUNTS, by_run
from tracker_case import BETWEEN_VENUES, TABLES, Row, columns, config_of, fill, mark

from gpu_margin.config import load_config
from gpu_margin.live import LiveBook
from gpu_margin.records import Record
from gpu_margin.server import recovery
from gpu_margin.server.answering import Answering
from gpu_margin.server.messages import NamedWhatIf, OrderCheck, WhatIf

WRITERS = ("desk-1", "desk-2", "feed")
ACCESS = '[server.access]\nkeys = "keys.toml"\n'
PRICED = {"FUTX": 100.0, "FUTY": 50.0, "PERPY": 50.0, "FUTE": 51.0, "GBPX": 80.0, "CALLX": 9.0}
# What a mark may say: an instrument or a factor, the field, a value near which it is.
MARKED = [
    (("FUTX", None), "price", 101.0),
    (("FUTY", None), "price", 50.0),
    (("SPOTX", None), "price", 100.0),
    (("CALLX", None), "implied_vol", 0.3),
    (("NOPRICE", None), "price", 7.0),
    ((None, "X"), "last", 100.0),
    ((None, "Y"), "last", 50.0),
]
# Without the first price of an instrument.
KNOWN = [one for one in MARKED if one[0][0] != "NOPRICE"]


class Sender:
    """A client that sends changes of any kind, one after another."""

    def __init__(self, name: str, seed: int, marked: Any = MARKED) -> None:
        self.name, self._random, self._marked = name, random.Random(f"{seed} {name}"), marked
        self.number = 0
        self.error: BaseException | None = None

    def run(self, client: httpx.Client, count: int) -> None:
        """`count` requests, as a thread."""
        try:
            for _ in range(count):
                self.send(client)
        except BaseException as error:
            self.error = error

    def send(self, client: httpx.Client) -> None:
        self.number += 1
        kind = "marks" if self._random.random() < 0.3 else "fills"
        rows = [self._row(kind, place) for place in range(self._random.choice([1, 1, 2, 12]))]
        headers = {"Client-Sequence": str(self.number), "Idempotency-Key": str(self.number)}
        answer = client.post(f"/v1/{kind}", json={kind: rows}, headers=headers)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["applied"] + len(found["skipped"]) + len(found["failures"]) == len(rows)

    def _row(self, kind: str, place: int) -> Row:
        draw = self._random
        if kind == "marks":
            (instrument, factor), field, value = draw.choice(self._marked)
            value *= draw.uniform(0.9, 1.1)
            # Some are older than what is in force.
            return mark(instrument, field, value, 1e9 + self.number + draw.uniform(-3, 3), factor)
        name = draw.choice(list(PRICED))
        account = draw.choice([*ACCOUNTS, f"{self.name}-{self.number}"])
        netting_set = draw.choice([None, None, None, "iso", "s1"])
        quantity = draw.choice([1.0, -1.0, 2.5, -0.3, draw.gauss(0, 3)])
        price = PRICED[name] * draw.uniform(0.97, 1.03)
        number = f"{self.name}:{self.number}:{place}"
        return fill(number, account, name, quantity, price, netting_set=netting_set)


def sent(
    server: Running, keys: dict[str, str], seed: int, count: int, marked: Any = MARKED
) -> Iterator[None]:
    """All writers at once; nothing comes before they are done but what is done beside them."""
    senders = [Sender(name, seed, marked) for name in WRITERS]
    clients = [server.client({"X-API-Key": keys[one.name]}) for one in senders]
    threads = [
        threading.Thread(target=one.run, args=(client, count))
        for one, client in zip(senders, clients, strict=True)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        yield
    for client, one in zip(clients, senders, strict=True):
        client.close()
        if one.error is not None:
            raise one.error


def whatif(draw: random.Random) -> dict[str, Any]:
    """A what-if that has an answer."""
    names = draw.sample([*PRICED, "SPOTX", "PUTY", "LONE"], draw.randint(1, 5))
    return {
        "account_id": draw.choice(ACCOUNTS),
        "positions": {name: draw.choice([1.0, -1.0, 0.1, -7.0, 2.5]) for name in names},
        "add_positions": draw.random() < 0.8,
        "netting_set": draw.choice([None, None, "iso", "new"]),
        "allow_new": True,
    }


def small(folder: Path, **more: Any) -> tuple[Path, dict[str, str]]:
    config = small_book(folder, ACCESS, **more)
    return config, keys_in(folder, *WRITERS, "asker")


# ---------------------------------------------------------------- the state


@pytest.mark.parametrize(
    ("tables", "mode"),
    [(TABLES, "haircut"), (TABLES, "in_scenarios"), (BETWEEN_VENUES, "haircut")],
    ids=["haircut", "in scenarios", "between venues"],
)
def test_the_book_is_that_of_a_run_on_what_it_exports(
    tables: Any, mode: str, tmp_path: Path
) -> None:
    """Under every model, to the bit: fills, marks and new accounts from several at once."""
    config, keys = small(tmp_path, tables=tables, mode=mode)
    with running(config) as server:
        for _ in sent(server, keys, 3, 40):
            time.sleep(0.01)
        book = server.house.answering.book
        assert book.sequence == 3 * 40
        live_case.same_as_run(book, tmp_path / "export")
        with server.client({"X-API-Key": keys["asker"]}) as client:
            same_as_told(client, book)


def same_as_told(client: httpx.Client, book: LiveBook) -> None:
    """What the route of an account says is in the tables."""
    tracked = live_case.tracker(book)
    for account in ("A", "B", "NEW"):
        found = good(client.get(f"/v1/accounts/{account}"))
        for model in book.models:
            told = found["models"][model]
            rows = tracked.accounts(model).filter(account_id=account).to_dicts()
            initial = {row["netting_set"]: row["initial"] for row in rows}
            sets = {one["netting_set"]: one["requirement"] for one in told["netting_sets"]}
            assert initial.items() <= {None: told["levels"]["initial"], **sets}.items()
            (whole,) = (row for row in rows if row["netting_set"] is None)
            for name in ("collateral_value", "call", "excess", "utilisation", "status"):
                assert told[name] == whole[name], (account, model, name)
            assert told["levels"]["maintenance"] == whole["maintenance"]


def test_answers_beside_changes_are_those_of_the_state_that_they_name(tmp_path: Path) -> None:
    """Alone, in batches of any size and from a replica: the same bits."""
    config, keys = small(tmp_path)
    draw, asked = random.Random(7), list[tuple[dict[str, Any], dict[str, Any]]]()
    accounts: list[dict[str, Any]] = []
    with running(config) as server, server.client({"X-API-Key": keys["asker"]}) as client:
        for _ in sent(server, keys, 7, 50, KNOWN):
            one = whatif(draw)
            asked.append((one, good(client.post("/v1/whatif", json=one))))
            some = [whatif(draw) for _ in range(draw.choice([1, 2, 9, 40]))]
            found = good(client.post("/v1/whatif/batch", json={"whatifs": some}))
            assert {one["state_seq"] for one in found["answers"]} == {found["state_seq"]}
            asked += zip(some, found["answers"], strict=True)
            accounts.append(good(client.get(f"/v1/accounts/{draw.choice('ABC')}")))
            time.sleep(0.02)
        records = list(server.house.log.records(0))
        left = server.house.answering.book
        replica = Answering(live_case.book(), load_config(config), 60.0, lambda *failed: None)
        of_replica(replica, records, asked, accounts)
        live_case.same(left, replica.book)
    assert len({answer["state_seq"] for _, answer in asked}) > 5


def test_a_first_price_is_asked_about_before_the_board_knows_it() -> None:
    """A reader's turn between that in which marks take effect and the board after them."""
    config = {**config_of(), "gate": {"model": "es", "stale_seconds": 60.0}}
    answering = Answering(live_case.book(), load_config(config), 60.0, lambda *failed: None)
    rows = columns([mark("NOPRICE", "price", 7.0)])
    answering.book.apply([Record(1, "marks", rows)])
    (found,) = answering.whatifs([WhatIf("A", {"NOPRICE": 1.0, "SPOTX": 1.0})])
    assert found.state_seq == 1
    (decided,) = answering.orders([OrderCheck("A", "SPOTX", 1.0)])
    assert decided.state_seq == 1


def good(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def of_replica(
    replica: Answering,
    records: list[Record],
    asked: list[tuple[dict[str, Any], dict[str, Any]]],
    accounts: list[dict[str, Any]],
) -> None:
    """Every answer is the replica's, which takes one record, and one question, at a time."""
    for record in [None, *records]:
        if record is not None:
            replica.book.apply([record])
            replica.took([record])
        seq = replica.book.sequence
        for question, answer in asked:
            if answer["state_seq"] == seq:
                (right,) = replica.whatifs([msgspec.convert(question, WhatIf)])
                assert without_age(msgspec.to_builtins(right)) == without_age(answer)
        for answer in accounts:
            if answer["state_seq"] == seq:
                (right,) = replica.accounts([answer["account_id"]])
                assert without_age(right) == without_age(answer)


def without_age(answer: dict[str, Any]) -> dict[str, Any]:
    """Whether a mark is stale depends on the time of day."""
    return {name: value for name, value in answer.items() if name != "stale_marks"}


def test_the_same_question_alone_and_in_batches_of_any_size(tmp_path: Path) -> None:
    config, keys = small(tmp_path)
    draw = random.Random(11)
    questions = [whatif(draw) for _ in range(60)]
    with running(config) as server, server.client({"X-API-Key": keys["asker"]}) as client:
        for _ in sent(server, keys, 11, 15):
            time.sleep(0.01)
        alone = [good(client.post("/v1/whatif", json=one)) for one in questions]
        for size in (1, 2, 7, 60):
            for first in range(0, 60, size):
                some = questions[first : first + size]
                found = good(client.post("/v1/whatif/batch", json={"whatifs": some}))
                assert found["answers"] == alone[first : first + size]
        together = asked_at_once(server, keys["asker"], questions)
        assert together == alone
        names = [msgspec.convert(one, NamedWhatIf) for one in questions]
        (batch,) = server.house.answering.batches([names])
        assert msgspec.to_builtins(batch.answers) == alone


def asked_at_once(server: Running, key: str, questions: list[dict[str, Any]]) -> list[Any]:
    """By 8 connections, which the reader takes together as they come."""
    found: list[Any] = [None] * len(questions)

    def ask(start: int) -> None:
        with server.client({"X-API-Key": key}) as client:
            for number in range(start, len(questions), 8):
                found[number] = good(client.post("/v1/whatif", json=questions[number]))

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_a_what_if_is_a_run_on_the_positions_changed(tmp_path: Path) -> None:
    config, keys = small(tmp_path)
    draw = random.Random(13)
    with running(config) as server, server.client({"X-API-Key": keys["asker"]}) as client:
        for _ in sent(server, keys, 13, 15):
            time.sleep(0.01)
        book = server.house.answering.book
        for _ in range(6):
            question = whatif(draw)
            found = good(client.post("/v1/whatif", json=question))
            legs = question["account_id"], question["netting_set"], question["positions"]
            expected = by_run(book, legs, not question["add_positions"])
            for model, change in found["models"].items():
                amount, gross = expected[model]
                # Mixed precision: sums of float32 are as far off as they may be.
                most = 1e-12 * gross + 1e-8 * gross * (model == "mixed")
                assert abs(change["after"] - amount) <= most, (model, question)
                assert change["change"] == change["after"] - change["before"]


# ---------------------------------------------------------------- restarts


def test_a_restart_is_not_to_be_seen(tmp_path: Path) -> None:
    """By a snapshot, by a damaged one with the log behind the one before: the same answers."""
    config, keys = small(tmp_path)
    draw = random.Random(17)
    questions = [whatif(draw) for _ in range(20)]
    before: tuple[Any, ...] = ()
    for life in range(5):
        with running(config) as server, server.client({"X-API-Key": keys["asker"]}) as client:
            house = server.house
            if before:
                found = everything(server, client, questions)
                # What is replayed from the log is measured once, at its end.
                kept = slice(None) if life != 3 else slice(-1)
                assert found[kept] == before[kept]
            if life in (0, 1):
                for _ in sent_on(server, keys, life):
                    time.sleep(0.01)
            before = everything(server, client, questions)
            assert house.log.last() == house.answering.book.sequence
        newest = recovery.snapshots(house.settings.state)
        if life == 2:
            assert len(newest) == 2
            newest[0].write_bytes(newest[0].read_bytes()[:1000])
        if life == 3:
            newest[1].unlink()


def sent_on(server: Running, keys: dict[str, str], life: int) -> Iterator[None]:
    """A few more changes of a client that goes on with its numbers."""
    sender = Sender("feed", 17)
    sender.number = 25 * life
    with server.client({"X-API-Key": keys["feed"]}) as client:
        for _ in range(25):
            sender.send(client)
            yield


def everything(
    server: Running, client: httpx.Client, questions: list[dict[str, Any]]
) -> tuple[Any, ...]:
    """What can be asked about the state; events are those of states, in their order."""
    book, board = server.house.answering.book, server.house.answering.board
    accounts = good(client.get("/v1/accounts?limit=100"))["accounts"]
    views = [good(client.get(f"/v1/accounts/{one}")) for one in accounts]
    batch = good(client.post("/v1/whatif/batch", json={"whatifs": questions}))
    summary = good(client.get("/v1/summary"))
    kept = {name: summary[name] for name in ("state_seq", "models", "accounts")}
    orders = [
        good(client.post("/v1/orders/check", json=order(name, quantity)))
        for name in ("FUTX", "FUTY", "SPOTX")
        for quantity in (1.0, -500.0)
    ]
    events = book.events_after(0)
    boards = board.table().rows(), board.volatility.tolist()
    return accounts, views, batch, kept, orders, repr(boards), events


def order(name: str, quantity: float) -> dict[str, Any]:
    return {"account_id": "A", "instrument_id": name, "quantity": quantity, "open_orders": []}
