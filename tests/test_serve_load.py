"""The load benchmark: a sound book, proper requests, scenarios that see what is wrong."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from serve_case import (
    book,
    needs_compiler,
    process,
    record,
    scenarios,
    serve_load,
    storage,
    wire,
)

from gpu_margin import loading

SIZE = book.Size(300, 20, 50)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> book.Book:
    return book.make(SIZE, tmp_path_factory.mktemp("book"))


def test_the_book_has_no_bad_row(made: book.Book) -> None:
    loaded = loading.load(made.config)
    assert len(loaded.failures) == 0
    assert loaded.counts["accounts"] == 300 and loaded.counts["positions"] == 6000
    assert all(len(set(row)) == SIZE.positions for row in made.held.tolist())


def test_some_instruments_are_popular(made: book.Book) -> None:
    rng = np.random.default_rng(0)
    counts = np.sort(np.bincount(book.popular(200_000, rng), minlength=book.INSTRUMENTS))[::-1]
    expected = 200_000 / (np.arange(1, 4) * np.sum(1 / np.arange(1, book.INSTRUMENTS + 1)))
    assert counts[:3] == pytest.approx(expected, rel=0.03)


def test_accounts_of_nothing_but_the_same_still_have_different_instruments() -> None:
    held = book.draw_held(book.Size(20, 2_000, 1), np.random.default_rng(0))
    assert all(len(set(row)) == 2_000 for row in held.tolist())


def test_marks_are_of_the_whole_book(made: book.Book) -> None:
    instruments = pl.read_parquet(made.folder / "instruments.parquet")
    marks = made.marks(1)
    marked = set(marks["instrument_id"].drop_nulls())
    plain = instruments.filter(~pl.col("kind").is_in(["call", "put"]))
    assert marked == set(plain["instrument_id"])
    assert set(marks["factor"].drop_nulls()) == set(instruments["underlying"])
    loaded = loading.load(made.config, marks=marks)
    assert len(loaded.failures) == 0 and loaded.marks is not None
    assert len(loaded.marks) == len(marks)


def parsed(request: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines), body


def test_requests_are_what_they_should_be(made: book.Book) -> None:
    bodies = list(wire.whatifs(made, 500, 1))
    assert all(len(body["positions"]) == wire.LEGS for body in bodies)
    assert len({body["account_id"] for body in bodies}) > 200
    (lane, request), *_ = wire.posts(made, "/v1/whatif", bodies)
    first, headers, body = parsed(request)
    assert (lane, first) == (0, "POST /v1/whatif HTTP/1.1")
    assert json.loads(body) == bodies[0] and headers["Content-Length"] == str(len(body))
    assert headers["Authorization"] == f"Bearer {made.trader(0)}"
    table = wire.leg_table(made, 100, 1)
    legs = table.group_by("whatif_id").agg(pl.col("instrument_id", "account_id").n_unique())
    assert legs["instrument_id"].to_list() == [5] * 100 == [5 * n for n in legs["account_id"]]


@pytest.mark.parametrize("rows", [1, 10])
def test_fills_are_numbered_by_client(made: book.Book, rows: int) -> None:
    found = [
        (lane, *parsed(request)) for lane, request in wire.fills(made, {5: 3, 9: 1}, 4, rows, "tag")
    ]
    assert [lane for lane, *_ in found] == [0] * 4 + [1] * 4
    numbers = [int(headers["Client-Sequence"]) for _, _, headers, _ in found]
    assert numbers == [3, 4, 5, 6, 1, 2, 3, 4]
    assert len({headers["Idempotency-Key"] for _, _, headers, _ in found}) == 8
    if rows == 1:
        sent = [fill for *_, body in found for fill in json.loads(body)["fills"]]
    else:
        sent = [fill for *_, body in found for fill in pl.read_ipc_stream(body).to_dicts()]
    assert len({fill["fill_id"] for fill in sent}) == 8 * rows
    held = {name for row in made.held.tolist() for name in book.instrument_ids()[row]}
    assert sum(fill["instrument_id"] in held for fill in sent) >= 0.6 * len(sent)


def test_keys_have_the_scopes_that_they_need(made: book.Book) -> None:
    clients = tomllib.loads((made.folder / "keys.toml").read_text())
    text = json.dumps(clients, default=str)
    assert all(key not in text for key in made.keys.values())
    assert len(made.keys) == book.CLIENTS + 3 == len(set(made.keys.values()))


# ---------------------------------------------------------------- all of it


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts the small server in place of the real one."""
    needs_compiler()

    def command(config: Path, port: int, backend: str) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("toy_server.py")), str(port)]

    monkeypatch.setattr(serve_load, "serve_command", command)
    monkeypatch.setattr(scenarios, "WARMUP", 0.2)


@pytest.mark.usefixtures("toys")
def test_every_scenario(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--duration=0.5", "--soak=2", "--fills=9000", f"--out={tmp_path}"]
    assert serve_load.main(["--book=200x20x50", *options]) == 0
    (path,) = tmp_path.glob("serve-*.json")
    found = json.loads(path.read_text())
    assert str(tmp_path) not in path.read_text()
    figures = {(one["scenario"], one["name"]): one for one in found["figures"]}
    assert {scenario for scenario, _ in figures} >= {"start", *scenarios.SCENARIOS}
    errors = {place: one["value"] for place, one in figures.items() if place[1] == "errors"}
    assert set(errors.values()) == {0}, found["counts"]
    for place in (("whatif", "what-ifs"), ("fills", "fills"), ("whatif-marks", "marks taken")):
        assert figures[place]["value"] > 0
    assert figures["restart", "logged after the snapshot"]["value"] == 16_000
    # The small server forgets all when it is killed, and that is seen.
    lost = figures["restart", "changes lost"]
    assert lost["value"] > 0 and lost["met"] is False
    assert figures["order", "accepted of a sample"]["value"] == 1.0
    assert found["command"].startswith("python benchmarks/serve_load.py --book 200x20x50 ")
    assert {"machine", "versions", "created", "size"} <= set(found)
    assert found["storage"]["synced_writes_per_second"] > 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(found["figures"]) + 1


@pytest.mark.usefixtures("toys")
def test_a_server_that_does_not_come_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [sys.executable, "-c", "raise SystemExit('no such backend')"]
    monkeypatch.setattr(serve_load, "serve_command", lambda *_: words)
    with pytest.raises(RuntimeError, match="the server ended: no such backend"):
        serve_load.main(["--book=20x5x50", "--only=whatif"])


@pytest.mark.usefixtures("toys")
def test_a_scenario_that_fails_is_told_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def killed(bench: scenarios.Bench) -> None:
        bench.server.kill()
        raise ValueError(f"{bench.book.folder}/x: bad")

    monkeypatch.setitem(scenarios.SCENARIOS, "whatif", killed)
    options = ["--duration=0.3", "--only=whatif,account", f"--out={tmp_path}"]
    assert serve_load.main(["--book=20x5x50", *options]) == 1
    (path,) = tmp_path.glob("serve-*.json")
    found = json.loads(path.read_text())
    assert found["counts"]["whatif-failed"] == {"error": "ValueError: /x: bad"}
    met = {(one["scenario"], one["name"]): one["met"] for one in found["figures"]}
    assert met["whatif", "failed"] is False and met["account", "errors"] is True


@pytest.mark.usefixtures("toys")
def test_the_server_is_stopped_by_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[process.Server] = []

    def interrupted(bench: scenarios.Bench) -> None:
        started.append(bench.server)
        raise KeyboardInterrupt

    monkeypatch.setitem(scenarios.SCENARIOS, "whatif", interrupted)
    assert serve_load.main(["--book=20x5x50", "--only=whatif"]) == 130
    child = started[0].process
    assert child is not None and child.poll() is not None


def test_the_storage_is_described(tmp_path: Path) -> None:
    found = storage.describe(tmp_path, seconds=0.05)
    assert found["filesystem"] and found["synced_writes_per_second"] > 1
    assert list(tmp_path.iterdir()) == []


def test_memory_that_grows_is_seen() -> None:
    watch = process.Watch(process.Server([], 0, Path()), [50, *range(100, 120)])
    assert watch.drift() == pytest.approx(118.5 / 102 - 1.0, abs=0.02)
    assert process.Watch(watch.server, [100] * 30).drift() == 0.0


def test_the_table_is_aligned() -> None:
    figures = [
        scenarios.Figure("a", "rate", 12345.6, "/s", 10_000),
        scenarios.Figure("longer", "p99", 12.345, "ms", 10, "most"),
        scenarios.Figure("a", "free", 0.5),
    ]
    lines = record.table(figures).splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["yes", "NO", "0.5"]
    assert lines[1].index("yes") == lines[2].index("NO")
    assert lines[1].index("10,000") + len("10,000") == lines[2].index("<= 10") + len("<= 10")


def test_wrong_arguments_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--book=10x20"], ["--only=whatif,nothing"]):
        with pytest.raises(SystemExit):
            serve_load.arguments(words)
    assert "no scenario 'nothing'" in capsys.readouterr().err
    asked = serve_load.arguments(["--only=restart,whatif", "--book=1x2x3"])
    assert "--only whatif,restart" in serve_load.command_line(asked)
