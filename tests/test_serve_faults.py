"""The running server when a device fails, and when the market's marks are old or missing."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from running_case import FACTORS, FUTURE, MINE, OTHER, Running, demo_book, problem, running

from gpu_margin import backend as backends

ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}
INDEX = "SP500-F-2019-03"
WHATIF = {"account_id": MINE, "positions": {FUTURE: -3, INDEX: 2}}
ORDER = {"account_id": MINE, "instrument_id": FUTURE, "quantity": 1}
_WORK = ("tail", "weighted_sum", "quadratic_form", "black76")


class Faulty:
    """The NumPy backend, until it is armed: from the n-th call on, all its work fails."""

    name = "faulty"

    def __init__(self, *others: Any) -> None:
        self._sound: Any = backends.load("numpy")
        self.left: int | None = None
        self.failed, self.others = 0, others

    def shards(self) -> Sequence[Any]:
        return [self, *self.others]

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._sound, name)
        if name not in _WORK:
            return found

        def work(*given: Any, **more: Any) -> Any:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    self.failed += 1
                    raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")
            return found(*given, **more)

        return work


@contextmanager
def failing(
    folder: Path, patch: pytest.MonkeyPatch, *others: Faulty, **more: Any
) -> Iterator[tuple[Running, Faulty]]:
    """A server on a device that can be made to fail, beside others."""
    device, load = Faulty(*others), backends.load
    patch.setattr(backends, "load", lambda name: device if name == "faulty" else load(name))
    with running(demo_book(folder, **more), "faulty") as server:
        yield server, device


def change(n: int) -> dict[str, str]:
    return {"Client-Sequence": str(n), "Idempotency-Key": f"key-{n}"}


def fill(n: int, account: str = MINE) -> dict[str, Any]:
    given = {"fill_id": f"f-{n}", "account_id": account, "instrument_id": FUTURE}
    return {**given, "quantity": 1.0 + n, "price": 45.0 + n}


def table() -> bytes:
    legs = [
        {"whatif_id": "w", "account_id": one, "instrument_id": FUTURE, "quantity": 2.0}
        for one in (MINE, OTHER)
    ]
    stream = io.BytesIO()
    pl.DataFrame(legs).write_ipc_stream(stream)
    return stream.getvalue()


QUESTIONS: dict[str, Any] = {
    "whatif": lambda client: client.post("/v1/whatif", json=WHATIF),
    "instead": lambda client: client.post("/v1/whatif", json={**WHATIF, "add_positions": False}),
    "batch": lambda client: client.post("/v1/whatif/batch", json={"whatifs": [WHATIF] * 3}),
    "table": lambda client: client.post("/v1/whatif/batch", content=table(), headers=ARROW),
    "order": lambda client: client.post("/v1/orders/check", json=ORDER),
    "account": lambda client: client.get(f"/v1/accounts/{MINE}"),
    "explain": lambda client: client.get(f"/v1/accounts/{MINE}/explain"),
}


def figures(name: str, answer: httpx.Response) -> Any:
    """What an answer says of the book, whatever its state and clock."""
    if name == "table":
        return pl.read_ipc_stream(io.BytesIO(answer.content)).to_dicts()
    found = answer.json()
    return {key: one for key, one in found.items() if key not in ("state_seq", "wait_seconds")}


def all_figures(client: httpx.Client) -> dict[str, Any]:
    answers = {name: ask(client) for name, ask in QUESTIONS.items()}
    assert {name: one.status_code for name, one in answers.items()} == dict.fromkeys(answers, 200)
    return {name: figures(name, one) for name, one in answers.items()}


# ---------------------------------------------------------------- a device that fails


@pytest.mark.parametrize("calls", [0, 1, 2, 5])
def test_questions_are_answered_rightly_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, calls: int
) -> None:
    caplog.set_level(logging.ERROR, "gpu_margin.server")
    with failing(tmp_path, monkeypatch) as (server, device), server.client() as client:
        right = all_figures(client)
        assert client.get("/v1/summary").json()["backend"] == "faulty"
        wrong: list[Any] = []
        refused = []

        def ask(name: str) -> None:
            with server.client() as one:
                for _ in range(6):
                    answer = QUESTIONS[name](one)
                    if answer.status_code == 503:
                        refused.append(problem(answer, 503))
                    elif answer.status_code != 200 or figures(name, answer) != right[name]:
                        wrong.append((name, answer.text))

        device.left = calls
        askers = [threading.Thread(target=ask, args=(name,)) for name in QUESTIONS]
        for one in askers:
            one.start()
        for one in askers:
            one.join(60)
        assert not wrong and device.failed
        settled(client)
        assert all_figures(client) == right
        shown(client, server, caplog)


def settled(client: httpx.Client) -> None:
    """Wait until another device has taken over: it measures the book first."""
    ends = time.monotonic() + 60
    while QUESTIONS["whatif"](client).status_code != 200:
        assert time.monotonic() < ends
        time.sleep(0.02)


def shown(client: httpx.Client, server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """The change is in the summary, the metrics, the log and the audit log; once."""
    summary = client.get("/v1/summary").json()
    (fault,) = summary["faults"]
    assert fault["backend"] == "faulty" and "ILLEGAL_ADDRESS" in fault["error"]
    assert fault["next"] == summary["backend"] and summary["backend"] in ("numba", "numpy")
    text = client.get("/metrics").text
    assert "gpu_margin_backend_replacements_total 1.0" in text
    assert f'backend="{summary["backend"]}"' in text and 'backend="faulty"' not in text
    assert [one for one in caplog.records if one.message == "a device was given up"]
    assert client.get("/ready").status_code == 200
    assert server.house.audit.flush()
    lines = (server.house.settings.state / "audit.jsonl").read_text().splitlines()
    faults = [one for one in map(json.loads, lines) if one["kind"] == "fault"]
    assert [one["details"]["backend"] for one in faults] == ["faulty"]


MARKS = [
    {"factor": name, "field": "last", "value": value, "time": "2018-12-31T12:00:00"}
    for name, value in zip(FACTORS, (44.0, 2500.0, 6400.0), strict=True)
]


def changes(client: httpx.Client, numbers: Sequence[int]) -> list[Any]:
    """Fills and, as the third, marks."""
    found = []
    for n in numbers:
        if n == 3:
            answer = client.post("/v1/marks", json={"marks": MARKS}, headers=change(n))
        else:
            body = {"fills": [fill(n), fill(n + 100, OTHER)]}
            answer = client.post("/v1/fills", json=body, headers=change(n))
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], dict[str, Any]]:
    """What becomes of five changes where nothing fails."""
    folder = tmp_path_factory.mktemp("sound")
    with running(demo_book(folder)) as server, server.client() as client:
        return changes(client, range(1, 6)), all_figures(client)


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("calls", [0, 1])
def test_a_change_that_fails_in_the_middle_is_booked_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    undisturbed: tuple[list[Any], dict[str, Any]],
    at: int,
    calls: int,
) -> None:
    caplog.set_level(logging.ERROR, "gpu_margin.server")
    answers, right = undisturbed
    with failing(tmp_path, monkeypatch) as (server, device), server.client() as client:
        before = changes(client, range(1, at))
        device.left = calls
        after = changes(client, range(at, 6))
        assert device.failed
        assert before + after == answers
        assert all_figures(client) == right
        shown(client, server, caplog)
        # Sent again, they are answered as they were, and change nothing.
        assert changes(client, range(1, 6)) == answers
        assert all_figures(client) == right
    # And so it is after a restart, on another device.
    with running(tmp_path / "config.toml") as server, server.client() as client:
        assert client.get("/v1/summary").json()["state_seq"] == 5
        assert all_figures(client) == right


def test_while_fills_come_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight senders, questions beside them, and a device that fails under both."""
    with failing(tmp_path, monkeypatch) as (server, device), server.client() as client:
        before = client.get(f"/v1/accounts/{MINE}/explain").json()
        taken: list[int] = []

        def send(n: int) -> None:
            with server.client() as one:
                answer = one.post(
                    "/v1/fills",
                    json={"fills": [{**fill(n), "quantity": 1.0}]},
                    headers=change(n),
                )
                if answer.status_code == 200:
                    taken.append(answer.json()["applied"])

        def ask() -> None:
            with server.client() as one:
                for _ in range(20):
                    assert one.post("/v1/whatif", json=WHATIF).status_code in (200, 503)

        device.left = 7
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for one in threads:
            one.start()
        for n in range(1, 31):
            send(n)
        for one in threads:
            one.join(60)
        settled(client)
        quantity = {
            where: next(
                row["quantity"]
                for row in found["models"]["historical"]["positions"]
                if row["instrument_id"] == FUTURE
            )
            for where, found in (
                ("before", before),
                ("after", client.get(f"/v1/accounts/{MINE}/explain").json()),
            )
        }
        assert len(taken) == 30 and set(taken) == {1}
        assert quantity["after"] - quantity["before"] == 30


def test_of_several_devices_one_after_another_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Faulty()
    with failing(tmp_path, monkeypatch, second) as (server, first), server.client() as client:
        right = all_figures(client)
        for number, device in enumerate((first, second), 1):
            device.left = 0
            settled(client)
            assert device.failed and all_figures(client) == right
            faults = client.get("/v1/summary").json()["faults"]
            assert [one["backend"] for one in faults] == ["faulty"] * number
        assert faults[0]["next"] == "faulty" and faults[1]["next"] in ("numba", "numpy")


def test_a_failure_of_a_device_that_was_replaced_gives_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question fails on it, then a change, before the first has had its consequence."""
    with failing(tmp_path, monkeypatch) as (server, device), server.client() as client:
        house = server.house
        held, free = threading.Event(), threading.Event()
        writer: Any = house.threads.writer
        writer.call(lambda: (held.set(), free.wait(60)))
        assert held.wait(60)
        device.left = 0
        with ThreadPoolExecutor() as pool, server.client() as other:
            booked = pool.submit(changes, other, [1])
            while not writer.waiting:
                time.sleep(0.01)
            # Its device is to be replaced once the fill is booked, which replaces it too.
            assert QUESTIONS["whatif"](client).status_code == 503
            free.set()
            assert booked.result(60)[0]["applied"] == 2
        settled(client)
        house.failed(RuntimeError("late"), device)
        writer.call(lambda: None).result(60)
        assert len(client.get("/v1/summary").json()["faults"]) == 1


# ---------------------------------------------------------------- marks


def mark(client: httpx.Client, age: float, *factors: str) -> None:
    """A mark of that age for each factor, as they were: nothing moves."""
    number = client.get("/v1/summary").json()["state_seq"] + 1
    rows = [
        {"factor": one, "field": "last", "value": LAST[one], "time": time.time() - age}
        for one in factors
    ]
    answer = client.post("/v1/marks", json={"marks": rows}, headers=change(number))
    assert answer.status_code == 200 and answer.json()["failures"] == [], answer.text


LAST = {"WTI": 45.41, "SP500": 2506.85, "NASDAQ": 6635.28}


def stale(client: httpx.Client) -> dict[str, Any]:
    """Which answers say that they rest on old marks; of MINE, which has WTI only."""
    alone = {"account_id": MINE, "positions": {FUTURE: 1}}
    beside = {"account_id": MINE, "positions": {INDEX: 1}}
    batch = client.post("/v1/whatif/batch", json={"whatifs": [alone, beside]}).json()["answers"]
    legs = [
        {"whatif_id": one, "account_id": MINE, "instrument_id": one, "quantity": 1.0}
        for one in (FUTURE, INDEX)
    ]
    stream = io.BytesIO()
    pl.DataFrame(legs).write_ipc_stream(stream)
    answer = client.post("/v1/whatif/batch", content=stream.getvalue(), headers=ARROW)
    rows = pl.read_ipc_stream(io.BytesIO(answer.content)).filter(model="historical")
    order = client.post("/v1/orders/check", json=ORDER).json()
    found = {
        "whatif": client.post("/v1/whatif", json=alone).json()["stale_marks"],
        "batch": [one["stale_marks"] for one in batch],
        "table": rows["stale_marks"].to_list(),
        "account": client.get(f"/v1/accounts/{MINE}").json()["stale_marks"],
        "summary": client.get("/v1/summary").json()["stale_marks"],
        "order": order["stale_marks"],
    }
    refused = order["rule"] if order["action"] == "refuse" else None
    return {**found, "gate": refused if refused in ("missing_mark", "stale_mark") else None}


def expected(mine: bool, beside: bool, whole: bool, gate: str | None) -> dict[str, Any]:
    both = [mine, mine or beside]
    one = {"whatif": mine, "batch": both, "table": both, "account": mine, "order": mine}
    return {**one, "summary": whole, "gate": gate}


def test_answers_say_that_marks_are_old_and_the_gate_refuses(tmp_path: Path) -> None:
    with running(demo_book(tmp_path)) as server, server.client() as client:
        assert stale(client) == expected(True, True, True, "missing_mark")
        assert client.get("/v1/summary").json()["mark_age_seconds"] is None
        mark(client, 3600.0, "WTI")
        assert stale(client) == expected(True, True, True, "stale_mark")
        mark(client, 10.0, "WTI")
        assert stale(client) == expected(False, True, True, None)
        mark(client, 10.0, "SP500")
        assert stale(client) == expected(False, False, True, None)
        mark(client, 10.0, "NASDAQ")
        assert stale(client) == expected(False, False, False, None)
        age = client.get("/v1/summary").json()["mark_age_seconds"]
        assert 10.0 <= age < 30.0


def test_marks_grow_old_by_themselves(tmp_path: Path) -> None:
    """Without a change in the book, only the clock; the gate's limit is its own."""
    gate = '[gate]\nmodel = "historical"\nstale_seconds = 8.0\n'
    extra = "[server]\nstale_seconds = 4.0\n"
    config = demo_book(tmp_path, gate=gate, extra_toml=extra)
    with running(config) as server, server.client() as client:
        mark(client, 0.0, *FACTORS)
        assert stale(client) == expected(False, False, False, None)
        time.sleep(4.1)
        found = stale(client)
        assert found == expected(True, True, True, None)
        time.sleep(4.0)
        assert stale(client) == expected(True, True, True, "stale_mark")
        mark(client, 0.0, *FACTORS)
        assert stale(client) == expected(False, False, False, None)


def test_an_older_mark_makes_nothing_fresh(tmp_path: Path) -> None:
    with running(demo_book(tmp_path)) as server, server.client() as client:
        mark(client, 100.0, "WTI")
        rows = [{"factor": "WTI", "field": "last", "value": 40.0, "time": time.time() - 200.0}]
        answer = client.post("/v1/marks", json={"marks": rows}, headers=change(2)).json()
        assert answer["skipped"] == [1] and answer["applied"] == 0
        assert stale(client)["gate"] == "stale_mark"


def test_a_restart_knows_how_old_marks_are(tmp_path: Path) -> None:
    config = demo_book(tmp_path)
    with running(config) as server, server.client() as client:
        mark(client, 5.0, "WTI")
        mark(client, 500.0, "SP500")
        before = stale(client)
    with running(config) as server, server.client() as client:
        assert stale(client) == before == expected(False, True, True, None)
