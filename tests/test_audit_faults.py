"""The audit log on a disk that is full, or fails: it is told, and nothing is half written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from audit_case import kinds, records, until

from gpu_margin.server import audit as module
from gpu_margin.server import audit_file
from gpu_margin.server.audit import Audit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


class Disk:
    """A disk that becomes full in the middle of a line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full, self.faults, self._write = False, 0, os.write
        monkeypatch.setattr(audit_file.os, "write", self.write)
        monkeypatch.setattr(module, "_RETRY_EVERY", 0.01)

    def write(self, descriptor: int, content: bytes) -> int:
        if self.faults:
            self.faults -= 1
            raise OSError(5, "Input/output error")
        if not self.full:
            return self._write(descriptor, content[:1000])  # never all at once
        if len(content) > 20:
            return self._write(descriptor, content[:20])
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_told_and_nothing_is_lost_when_it_is_free_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk, told = Disk(monkeypatch), list[str | None]()
    audit = Audit(path, changed=told.append)
    audit.note("login", "before")
    assert audit.flush() and audit.failed is None
    good = path.read_bytes()
    disk.full = True
    for n in range(10):
        audit.note("fills", "desk", n=n)
    assert not audit.flush()
    assert audit.failed == "No space left on device" and told == ["No space left on device"]
    assert "the audit log cannot be written" in caplog.text
    until(lambda: path.read_bytes() == good)  # no half a line stays
    disk.full = False
    until(lambda: audit.failed is None)
    audit.note("login", "after")
    audit.close()
    assert told == ["No space left on device", None]
    found = records(path)
    assert [record["kind"] for record in found].count("fills") == 10
    (fault,) = [record for record in found if record["kind"] == "fault"]
    assert fault["details"]["reason"] == "No space left on device"
    assert 0.0 < fault["details"]["seconds"] < 10.0
    assert found[-1]["actor"] == "after"


def test_what_a_full_disk_keeps_waiting_is_bounded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 100)
    monkeypatch.setattr(module, "_MOST_AT_ONCE", 50)
    disk = Disk(monkeypatch)
    audit = Audit(path)
    disk.full = True
    audit.note("login", "desk")
    until(lambda: audit.failed is not None)
    for n in range(1000):
        audit.note("fills", "desk", n=n)
    assert audit._queue.qsize() <= 100
    disk.full = False
    until(lambda: audit.failed is None)
    audit.close()
    found = records(path)
    lost = sum(record["details"].get("records_lost", 0) for record in found)
    assert lost >= 800 and lost + [record["kind"] for record in found].count("fills") == 1000


def test_closing_with_a_full_disk_ends_and_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(monkeypatch)
    audit = Audit(path)
    disk.full = True
    audit.note("login", "desk")
    audit.close()
    assert "1 records of the audit log are lost: No space left" in caplog.text
    assert path.read_bytes() == b""


def test_closing_writes_what_failed_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    audit = Audit(path)
    disk.faults = 1
    audit.note("login", "desk")
    audit.close()
    assert kinds(path) == ["login", "fault"]


def test_a_file_that_was_moved_is_a_fault(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who rotates it stops the server first, or the chain would go on out of sight."""
    audit = Audit(path)
    path.rename(tmp_path / "old")
    audit.note("login", "desk")
    assert not audit.flush()
    assert audit.failed == "No such file or directory"
    path.touch()
    assert not audit.flush()
    audit.close()
