"""The audit log as a server writes it: across restarts, crashes, full disks and floods."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from audit_case import kinds, records, until
from hypothesis import given
from hypothesis import strategies as st

from gpu_margin.failures import ConfigError
from gpu_margin.server import audit_file
from gpu_margin.server.audit import Audit
from gpu_margin.server.audit_file import AuditFile
from gpu_margin.server.chain import START, verify
from gpu_margin.server.tallies import Tallies


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def audit(path: Path) -> Iterator[Audit]:
    opened = Audit(path)
    yield opened
    opened.close()


def fill(path: Path, count: int, **details: Any) -> None:
    """A log of many lines, written at once."""
    file = AuditFile(path)
    file.append([(time.time_ns(), "login", "desk", {"n": n, **details}) for n in range(count)])
    file.close()


# ---------------------------------------------------------------- notes


def test_what_is_noted_is_in_the_file_in_order(path: Path) -> None:
    audit = Audit(path)
    before = time.time()
    for n in range(100):
        audit.note("fills", "desk", seq=n, rows=2)
    assert audit.flush()
    found = records(path)
    assert [record["details"] for record in found] == [{"seq": n, "rows": 2} for n in range(100)]
    assert [record["seq"] for record in found] == list(range(1, 101))
    assert found[0]["time"][:10] == time.strftime("%Y-%m-%d", time.gmtime(before))
    assert (audit.lines, audit.last_hash) == (100, found[-1]["hash"])
    audit.close()
    audit.close()
    assert len(records(path)) == 100
    assert path.stat().st_mode & 0o777 == 0o600


def test_notes_of_many_threads_are_all_there(audit: Audit, path: Path) -> None:
    def note(actor: str) -> None:
        for n in range(200):
            audit.note("fills", actor, n=n)

    threads = [threading.Thread(target=note, args=(f"a{k}",)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert audit.flush()
    found = records(path)
    for k in range(8):
        own = [record["details"]["n"] for record in found if record["actor"] == f"a{k}"]
        assert own == list(range(200))


def test_flush_waits_for_the_disk(
    audit: Audit, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def observed(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(audit_file.os, "fsync", observed)
    audit.note("login", "desk")
    assert audit.flush() and synced[-1] == path.stat().st_size > 0


def test_it_is_written_without_being_asked(audit: Audit, path: Path) -> None:
    audit.note("login", "desk")
    until(lambda: path.stat().st_size > 0)


def test_noting_is_quick(audit: Audit) -> None:
    """In the time of the calling thread."""
    best = 1e9
    for _ in range(5):
        begun = time.thread_time()
        for n in range(1000):
            audit.note("fills", "desk", seq=n, rows=2, client_seq=n)
        best = min(best, (time.thread_time() - begun) / 1000)
    assert best < 10e-6


# ---------------------------------------------------------------- opening


def test_a_file_is_continued(path: Path) -> None:
    for n in range(3):
        audit = Audit(path)
        assert audit.lines == n
        audit.note("started", "server", n=n)
        audit.close()
    assert kinds(path) == ["started"] * 3


@given(st.integers(1, 400))
def test_a_torn_last_line_is_moved_away(cut: int) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "audit.jsonl"
        fill(path, 3)
        content = path.read_bytes()
        kept = content[:-cut]
        path.write_bytes(kept)
        AuditFile(path).close()
        whole = kept[: kept.rfind(b"\n") + 1]
        torn = kept[len(whole) :]
        found = records(path)
        sidecars = [one for one in path.parent.iterdir() if one != path]
        if not torn:
            assert path.read_bytes() == whole and not sidecars
            return
        assert path.read_bytes().startswith(whole) and len(found) == whole.count(b"\n") + 1
        assert sidecars[0].read_bytes() == torn and sidecars[0].name.startswith(path.name)
        assert (found[-1]["kind"], found[-1]["actor"]) == ("torn", "audit")
        details = {"bytes": len(torn), "sha256": sha256(torn).hexdigest()}
        assert found[-1]["details"] == {**details, "file": sidecars[0].name}


def test_a_broken_file_is_refused_by_its_line(path: Path) -> None:
    fill(path, 5)
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"n":2', b'"n":9'))
    broken = path.read_bytes()
    with pytest.raises(ConfigError, match=r"audit\.jsonl: line 3 its hash is wrong"):
        Audit(path)
    assert path.read_bytes() == broken
    lines = good.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[1:]))
    with pytest.raises(ConfigError, match="line 1 its hash is wrong"):
        Audit(path)
    path.write_bytes(b"no log\n")
    with pytest.raises(ConfigError, match=r"line 1 is not a line.*move it away"):
        Audit(path)


def test_of_a_long_file_the_end_is_checked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path, 2000)
    good = path.read_bytes()
    monkeypatch.setattr(audit_file, "_WINDOW", 4096)
    read: list[int] = []
    pread = os.pread

    def observed(descriptor: int, size: int, at: int) -> bytes:
        read.append(size)
        return pread(descriptor, size, at)

    monkeypatch.setattr(audit_file.os, "pread", observed)
    with_early_fault = good.replace(b'"n":5}', b'"n":6}')
    path.write_bytes(with_early_fault)
    file = AuditFile(path)
    assert (file.lines, file.last_hash) == (2000, json.loads(good.splitlines()[-1])["hash"])
    assert sum(read) <= 8192
    file.close()
    path.write_bytes(good.replace(b'"n":1995}', b'"n":1996}'))
    with pytest.raises(ConfigError, match="line 1996 its hash is wrong"):
        AuditFile(path)
    path.write_bytes(good + b"x" * 5000)
    with pytest.raises(ConfigError, match="its end is no audit log"):
        AuditFile(path)
    path.write_bytes(good + b"\n" * 5000)
    with pytest.raises(ConfigError, match="line 2001 is not a line"):
        AuditFile(path)


def test_lines_of_the_longest_kind_can_be_continued(path: Path) -> None:
    for n in range(1, 4):
        fill(path, 100, text="x" * 15_000)
        assert verify(path).lines == 100 * n


def test_a_file_has_one_writer(audit: Audit, path: Path) -> None:
    with pytest.raises(ConfigError, match="another process writes it"):
        Audit(path)
    audit.close()
    Audit(path).close()


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Audit(tmp_path / "no" / "audit.jsonl")
    with pytest.raises(ConfigError, match="Is a directory"):
        Audit(tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_server_leaves_a_log_that_goes_on(path: Path, seed: int) -> None:
    """What was flushed is there."""
    code = (
        "import sys; from pathlib import Path; from gpu_margin.server.audit import Audit\n"
        "audit, n = Audit(Path(sys.argv[1])), 0\n"
        "while True:\n"
        "    for _ in range(50): n += 1; audit.note('fills', 'desk', n=n)\n"
        "    audit.flush(); print(n, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(seed + 1):
            flushed = int(process.stdout.readline())
        time.sleep(0.003 * seed)
        process.send_signal(signal.SIGKILL)
    Audit(path).close()
    found = [record for record in records(path) if record["kind"] == "fills"]
    assert [record["details"]["n"] for record in found] == list(range(1, len(found) + 1))
    assert len(found) >= flushed


# ---------------------------------------------------------------- counting


def test_a_flood_of_refusals_is_counted(path: Path) -> None:
    audit = Audit(path, most=3)
    for n in range(10_000):
        audit.note("refusal", f"10.0.0.{n % 256}", reason="unknown key", n=n)
    audit.note("refusal", "10.1.1.1", reason="expired")
    audit.close()
    found = records(path)
    assert len(found) == 5
    assert [record["details"].get("n") for record in found[:3]] == [0, 1, 2]
    assert found[-1]["actor"] == "several"
    assert found[-1]["details"] == {"reason": "unknown key", "more": 9997, "seconds": 60.0}


def test_whatifs_are_counted_by_actor(path: Path) -> None:
    audit = Audit(path)
    for n in range(100):
        audit.count_whatif(f"a{n % 2}", 5)
    assert audit.flush() and path.stat().st_size == 0
    audit.close()
    found = {record["actor"]: record["details"] for record in records(path)}
    assert found == {"a0": {"count": 250}, "a1": {"count": 250}}


def test_counts_are_written_when_their_window_is_over(path: Path) -> None:
    audit = Audit(path, window=0.05, most=1)
    for _ in range(2):
        audit.note("refusal", "x", reason="r")
        audit.count_whatif("desk", 1)
    until(lambda: audit.lines == 3)
    assert sorted(kinds(path)) == ["refusal", "refusal", "whatifs"]
    audit.close()
    assert audit.lines == 3


def test_windows_by_a_clock() -> None:
    tallies = Tallies(window=60.0, most=2)
    assert [tallies.is_to_be_written("a", 0.0) for _ in range(4)] == [True, True, False, False]
    assert tallies.is_to_be_written("b", 30.0)
    tallies.count_whatif("desk", 3, 10.0)
    tallies.count_whatif("desk", 4, 60.0)
    assert tallies.due(59.9) == []
    assert tallies.due(60.0) == [("refusal", "several", {"reason": "a", "more": 2, "seconds": 60})]
    assert tallies.is_to_be_written("a", 61.0)
    assert tallies.due(70.0) == [("whatifs", "desk", {"count": 7})]
    tallies.count_whatif("other", 1, 100.0)
    assert tallies.due(160.0) == [("whatifs", "other", {"count": 1})]
    assert tallies.due(1000.0) == [] and tallies.due(2000.0, everything=True) == []


def test_reasons_are_counted_together_where_they_are_too_many() -> None:
    tallies = Tallies(window=60.0, most=1)
    written = sum(tallies.is_to_be_written(str(n), 0.0) for n in range(1000))
    assert written == 101
    ((_, _, details),) = tallies.due(60.0)
    assert details == {"reason": "other", "more": 899, "seconds": 60.0}
    assert START == "0" * 64
