"""The log in a SQLite file: what can go wrong, and what is on the disk when it says so."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from log_case import entry

from gpu_margin.failures import InputError
from gpu_margin.server import sqlite_log
from gpu_margin.server.log import Accepted, Log, LogError, Repeated
from gpu_margin.server.sqlite_log import SqliteLog

BOOK = "the book"


# ---------------------------------------------------------------- what can go wrong


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    found = SqliteLog(tmp_path / "log.sqlite", BOOK)
    yield found
    found.close()


def refuses(log: Log) -> None:
    """Nothing of a call is accepted, and later the same call is."""
    before = log.last()
    with pytest.raises(LogError):
        log.append([entry("new", 1, "new client"), entry("more")], {("t", 0): 1})
    assert (log.last(), log.expected("new client"), log.offsets()) == (before, 1, {})
    assert len(list(log.records(0))) == before


def accepts(log: Log) -> None:
    last = log.last()
    group = [entry("new", 1, "new client"), entry("more")]
    assert log.append(group, {("t", 0): 1}) == [Accepted(last + 1), Accepted(last + 2)]


def test_a_full_disk_refuses_until_there_is_room(log: SqliteLog) -> None:
    log.append([entry("a")])
    (pages,) = log._writer.execute("PRAGMA page_count").fetchone()
    log._writer.execute(f"PRAGMA max_page_count = {pages}")
    big = entry("big")
    big.rows["fill_id"] = ["x" * 100_000]
    with pytest.raises(LogError, match="SQLITE_FULL"):
        log.append([entry("b"), big])
    assert log.last() == 1 and [one.seq for one in log.records(0)] == [1]
    log._writer.execute("PRAGMA max_page_count = 1000000")
    accepts(log)


def test_a_database_in_use_refuses(log: SqliteLog, tmp_path: Path) -> None:
    log._writer.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(tmp_path / "log.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refuses(log)
    other.execute("ROLLBACK")
    other.close()
    accepts(log)


def test_a_database_that_cannot_be_written_refuses(log: SqliteLog) -> None:
    log._writer.execute("PRAGMA query_only = ON")
    refuses(log)
    log._writer.execute("PRAGMA query_only = OFF")
    accepts(log)


def test_what_is_no_log_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE mine (x)")
    database.close()
    with pytest.raises(InputError, match="a database that is no log"):
        SqliteLog(other, BOOK)
    text = tmp_path / "text"
    text.write_text("no database " * 1000)
    with pytest.raises(LogError, match="not a database"):
        SqliteLog(text, BOOK)
    assert text.read_text() == "no database " * 1000
    with pytest.raises(LogError, match="cannot be made"):
        SqliteLog(text / "log", BOOK)
    with pytest.raises(LogError):
        SqliteLog(tmp_path, BOOK)


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_log, "FORMAT", "0")
    with pytest.raises(InputError, match="a log of format 0, not 1"):
        SqliteLog(tmp_path / "log", BOOK)


def test_a_missing_record_is_noticed(log: SqliteLog) -> None:
    log.append([entry(key) for key in "abc"])
    log._writer.execute("DELETE FROM entries WHERE seq = 2")
    with pytest.raises(LogError, match="record 2 is missing"):
        list(log.records(0))


def test_what_is_forgotten_makes_room_for_what_comes(log: SqliteLog) -> None:
    """Also where each entry is short: they are many to a page."""

    def add(start: int, count: int) -> None:
        for first in range(start, start + count, 100):
            log.append([entry(str(number), quantity=0.1) for number in range(first, first + 100)])

    def pages(what: str) -> int:
        (found,) = log._writer.execute(f"PRAGMA {what}").fetchone()
        return int(found)

    add(0, 3_000)
    before = pages("page_count")
    while log.prune(10**9):
        pass
    assert pages("freelist_count") > 0.25 * before
    add(3_000, 500)
    assert pages("page_count") == before


def test_readers_in_other_threads(log: SqliteLog) -> None:
    """What they see is a beginning of the whole, while the writer goes on."""
    stop = threading.Event()
    faults: list[Any] = []

    def read() -> None:
        while not stop.is_set():
            try:
                before = log.last()
                seqs = [one.seq for one in log.records(0)]
                if seqs != list(range(1, len(seqs) + 1)) or len(seqs) < before:
                    faults.append((before, seqs))
                log.unanswered(0)
            except Exception as error:
                faults.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for one in threads:
        one.start()
    for number in range(300):
        (result,) = log.append([entry(str(number))])
        log.answer([(result.seq, b"x")])  # type: ignore[union-attr]
    stop.set()
    for one in threads:
        one.join()
    assert faults == []


# ---------------------------------------------------------------- what survives


APPENDS = """
import os, sys
sys.path.insert(0, {tests!r})
from log_case import entry
from gpu_margin.server.log import Accepted, LogError
from gpu_margin.server.sqlite_log import SqliteLog
log = SqliteLog({path!r}, "the book")
log._writer.execute("PRAGMA wal_autocheckpoint = 20")
size, number = {size}, log.last()
os.write(1, b"ready\\n")
while number < {most}:
    group = [entry(str(key)) for key in range(number, number + size)]
    try:
        results = log.append(group)
    except LogError as error:
        os.write(1, b"refused\\n")
        continue
    assert results == [Accepted(number + place) for place in range(1, size + 1)], results
    number += size
    log.answer([(one.seq, b"answer") for one in results])
    os.write(1, b"ack %d\\n" % number)
"""


def start(path: Path, size: int = 1, most: int = 10**9, **more: str) -> subprocess.Popen[bytes]:
    """A process that appends and says, in the same pipe as the shim, what is acknowledged."""
    code = APPENDS.format(tests=str(Path(__file__).parent), path=str(path), size=size, most=most)
    environment = {**os.environ, **more}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)


def kill_after(process: subprocess.Popen[bytes], acks: int, seconds: float) -> int:
    """The last number that was acknowledged before the process was killed."""
    assert process.stdout is not None
    lines = iter(process.stdout.readline, b"")
    last = seen = 0
    for line in lines:
        if line.startswith(b"ack"):
            last, seen = int(line.split()[1]), seen + 1
        if seen >= acks and b" log.sqlite" not in line:
            break
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    for line in lines:
        if line.startswith(b"ack") and line.endswith(b"\n"):
            last = int(line.split()[1])
    process.wait()
    process.stdout.close()
    return last


def holds(path: Path, acknowledged: int, size: int) -> int:
    """All that was acknowledged is there once, in order, and nothing of a group alone."""
    log = SqliteLog(path, BOOK)
    records = list(log.records(0))
    assert [one.seq for one in records] == list(range(1, len(records) + 1))
    keys = [one.rows["fill_id"][0] for one in records]
    assert keys == [str(number) for number in range(len(records))]
    # At most one group that was written and not yet acknowledged.
    assert acknowledged <= len(records) <= acknowledged + size and len(records) % size == 0
    assert log.append([entry("0")]) == [Repeated(1, b"answer")] if acknowledged > size else True
    last = log.last()
    log.close()
    return last


def test_killed_at_any_moment_it_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(5)
    path = tmp_path / "log.sqlite"
    for _ in range(10):
        size = 1
        process = start(path, size)
        acknowledged = kill_after(process, chance.randrange(150), chance.random() / 200)
        holds(path, acknowledged, size)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that sees what is written and synced."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        assert not os.environ.get("CI"), "no C compiler: install gcc"
        pytest.skip("no C compiler for the library that watches syncing: install gcc")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("sync_shim.c")
    flags = ["-O1", "-Wall", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, source, "-o", library, "-ldl"], check=True)
    return str(library)


def watched(folder: Path, shim: str) -> dict[str, str]:
    (folder / "durable").mkdir()
    return {"LD_PRELOAD": shim, "SHIM_FOLDER": str(folder), "SHIM_EVENTS": "1"}


def test_it_is_on_the_disk_before_it_is_acknowledged(tmp_path: Path, shim: str) -> None:
    path = tmp_path / "log.sqlite"
    process = start(path, 1, 200, **watched(tmp_path, shim))
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    lines = out.decode().splitlines()
    assert lines.count("ready") == 1 and sum(line.startswith("ack") for line in lines) == 200
    dirty, synced = {"-wal"}, 0
    for line in lines[lines.index("ready") + 1 :]:
        what, _, name = line.partition(" ")
        if what == "write" and name.endswith("-wal"):
            dirty.add(name)
        elif what == "sync" and name.endswith("-wal"):
            dirty.clear()
            synced += 1
        elif what == "ack":
            assert not dirty, "acknowledged while something was not synced"
            dirty.add("the next one must be written and synced, too")
    assert synced >= 200


@pytest.mark.parametrize("size", [1, 7])
def test_without_power_it_keeps_what_was_acknowledged(size: int, tmp_path: Path, shim: str) -> None:
    """Only what was synced is there afterwards; checkpoints come often."""
    chance = random.Random(size)
    path = tmp_path / "log.sqlite"
    more = watched(tmp_path, shim)
    for _ in range(4):
        process = start(path, size, **more)
        acknowledged = kill_after(process, chance.randrange(1, 200), chance.random() / 200)
        for file in tmp_path.glob("log.sqlite*"):
            file.unlink()
        for file in (tmp_path / "durable").glob("log.sqlite*"):
            if file.suffix == ".part":  # killed while the shim copied
                file.unlink()
            else:
                shutil.copy(file, tmp_path)
        holds(path, acknowledged, size)
        # What the next process finds is on the disk.
        for file in tmp_path.glob("log.sqlite*"):
            shutil.copy(file, tmp_path / "durable")


def test_a_disk_that_does_not_sync_is_not_acknowledged(tmp_path: Path, shim: str) -> None:
    path = tmp_path / "log.sqlite"
    process = start(path, 1, **watched(tmp_path, shim))
    assert process.stdout is not None
    lines = iter(process.stdout.readline, b"")
    while not next(lines).startswith(b"ack 20"):
        pass
    (tmp_path / "broken").touch()
    refused = 0
    for line in itertools.islice(lines, 10_000):
        # One may have been synced before the disk broke.
        assert not (refused and line.startswith(b"ack"))
        refused += line.startswith(b"refused")
        if refused == 3:
            break
    assert refused == 3
    (tmp_path / "broken").unlink()
    acknowledged = kill_after(process, 5, 0.0)
    holds(path, acknowledged, 1)
