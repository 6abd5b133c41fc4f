"""The chain of the audit log: any byte that is changed, any line that is moved, is found."""

from __future__ import annotations

import json
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from gpu_margin.audit_cli import audit_app
from gpu_margin.failures import InputError
from gpu_margin.server.chain import MOST_BYTES, START, Verified, make_line, verify, verify_lines

TIME = 1_800_000_000_123_456_789


def chain(count: int, before: str = START) -> list[bytes]:
    lines = []
    for seq in range(1, count + 1):
        details: dict[str, Any] = {"n": seq, "text": 'a"},\n\u2028é', "none": None}
        line, before = make_line(seq, TIME + seq, "login", f"desk {seq}", details, before)
        lines.append(line)
    return lines


LINES = chain(6)


def checked(content: bytes) -> Verified:
    return verify_lines(BytesIO(content).readlines())


# ---------------------------------------------------------------- a line


def test_a_line_is_as_documented() -> None:
    """Against a line made by hand."""
    body = (
        b'{"seq":1,"time":"2027-01-15T08:00:00.123456Z","kind":"login","actor":"d\\u00e9sk",'
        b'"details":{"a":1,"b":[true,null]}'
    )
    own = sha256(b"0" * 64 + body).hexdigest()
    made = make_line(1, TIME, "login", "désk", {"b": [True, None], "a": 1}, START)
    assert made == (body + f',"hash":"{own}"}}\n'.encode(), own)
    second, _ = make_line(2, TIME, "login", "x", {}, own)
    body = second[: second.index(b',"hash"')]
    assert sha256(own.encode() + body).hexdigest().encode() in second


class Unwilling:
    def __str__(self) -> str:
        raise RuntimeError


CIRCULAR: dict[str, Any] = {}
CIRCULAR["self"] = CIRCULAR


@pytest.mark.parametrize(
    "details",
    [
        {"x": float("nan")},
        {"x": float("inf")},
        {"x": "\ud800\x00\x7f\n\r"},
        {"x": Path("a"), "y": b"\xff", "z": {1, 2}},
        {"x": {1: 1, "1": 2}},
        {"x": Unwilling()},
        {"x": "y" * 10**6},
        CIRCULAR,
        {f"k{n}": "v" * 100 for n in range(1000)},
    ],
)
def test_nothing_that_is_noted_breaks_the_log(details: dict[str, Any]) -> None:
    line, own = make_line(1, TIME, "kind" * 100, "actor\n" * 1000, details, START)
    assert line.count(b"\n") == 1 and line.endswith(b"\n") and line.isascii()
    assert len(line) < MOST_BYTES + 4096
    found = verify_lines([line])
    assert found.broken is None and found.last is not None and found.last.hash == own
    json.loads(line, parse_constant=lambda name: pytest.fail(name))


# ---------------------------------------------------------------- what is found


def test_lines_as_they_were_written() -> None:
    found = verify_lines(LINES)
    assert (found.lines, found.broken) == (6, None)
    assert found.first and found.last and (found.first.seq, found.last.seq) == (1, 6)
    assert json.loads(LINES[-1])["hash"] == found.last.hash
    assert verify_lines([]) == Verified(0, None, None, None)


@given(st.integers(0, len(b"".join(LINES)) - 1), st.integers(1, 255))
def test_any_byte_that_is_changed_is_found(at: int, flip: int) -> None:
    """In the line in which it is, or, where it joins two, in the first of them."""
    content = bytearray(b"".join(LINES))
    line = content[:at].count(b"\n") + 1
    content[at] ^= flip
    found = checked(bytes(content))
    assert found.broken is not None and found.broken.line == line
    assert found.lines == line - 1


def test_each_byte_of_two_lines_counts() -> None:
    content = b"".join(LINES[:2])
    for at in range(len(content)):
        for changed in (content[:at] + content[at + 1 :], content[:at] + b" " + content[at:]):
            assert checked(changed).broken is not None, at


@given(st.permutations(range(6)))
def test_lines_in_another_order_are_found(order: list[int]) -> None:
    moved = [n != at for at, n in enumerate(order)]
    found = verify_lines([LINES[n] for n in order])
    if any(moved):
        assert found.broken is not None and found.broken.line == moved.index(True) + 1
    else:
        assert found.broken is None


@given(st.sets(st.integers(0, 4), min_size=1))
def test_lines_that_are_missing_are_found(missing: set[int]) -> None:
    """But for the last: nothing comes after it."""
    found = verify_lines([line for n, line in enumerate(LINES) if n not in missing])
    assert found.broken is not None and found.broken.line == min(missing) + 1


@given(st.integers(0, 5), st.integers(0, 6))
def test_a_line_that_is_there_twice_is_found(which: int, to: int) -> None:
    lines = [*LINES[:to], LINES[which], *LINES[to:]]
    assert verify_lines(lines).broken is not None


def test_a_line_of_another_log_is_found() -> None:
    other = chain(6, before="1" * 64)
    for at in range(6):
        assert verify_lines([*LINES[:at], other[at], *LINES[at + 1 :]]).broken is not None


def forged(body: bytes, before: str = START) -> bytes:
    own = sha256(before.encode() + body).hexdigest()
    return body + f',"hash":"{own}"}}\n'.encode()


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"\n", "is not a line of an audit log"),
        (b"{}\n", "is not a line of an audit log"),
        (LINES[0][:-1], "does not end"),
        (LINES[0][:10], "does not end"),
        (LINES[0].upper(), "is not a line of an audit log"),
        (LINES[1], "its hash is wrong"),
        (forged(b"["), "is not JSON"),
        (forged(b"{" * 100_000), "is not JSON"),
        (forged(b'{"seq":1'), "its members are not seq, time"),
        (forged(LINES[0][:-76].replace(b'"seq":1', b'"seq":2')), "has the number 2 in place of 1"),
        (forged(LINES[0][:-76].replace(b'"seq":1', b'"seq":true')), "has the number True"),
        (forged(LINES[0][:-76].replace(b'"kind"', b'"kinds"')), "its members are not"),
    ],
)
def test_what_is_no_line(raw: bytes, what: str) -> None:
    found = verify_lines([raw])
    assert found.broken is not None and found.broken.what.startswith(what)


def test_a_kept_hash_finds_what_was_cut_off_or_written_anew() -> None:
    hashes = [json.loads(line)["hash"] for line in LINES]
    for count in range(7):
        for at, kept in enumerate(hashes, 1):
            expected = at if at <= count else None
            assert verify_lines(LINES[:count], kept).expected_at == expected
    assert verify_lines(LINES, START).expected_at == 0
    anew = [make_line(n, TIME, "login", "x", {}, START)[0] for n in range(1, 2)]
    assert verify_lines(anew).broken is None
    assert verify_lines(anew, hashes[0]).expected_at is None


# ---------------------------------------------------------------- the command


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(audit_app, ["verify", *map(str, arguments)], env={"COLUMNS": "300"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(LINES))
    return path


def test_verify_says_what_is_in_a_log_that_is_right(file: Path) -> None:
    done = command(file)
    last = json.loads(LINES[-1])
    assert done.exit_code == 0 and done.stderr == ""
    assert done.stdout.splitlines() == [
        f"{file}: 6 lines, all as they were written",
        "first 2027-01-15T08:00:00.123456Z, last 2027-01-15T08:00:00.123456Z",
        f"last hash {last['hash']}",
    ]
    printed = json.loads(command(file, "--json").stdout)
    assert printed["intact"] is True and printed["problem"] is None
    assert printed["lines"] == 6 and printed["last"]["hash"] == last["hash"]


def test_verify_names_the_line_that_is_wrong(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"desk 4", b"desk 7"))
    done = command(file)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {file}: line 4 its hash is wrong: it was changed")
    done = command(file, "--json")
    printed = json.loads(done.stdout)
    assert done.exit_code == 1 and printed["intact"] is False
    assert printed["broken"]["line"] == 4 and printed["problem"].startswith("line 4 ")


def test_verify_finds_a_torn_line(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])
    done = command(file)
    assert done.exit_code == 1 and "line 6 does not end" in done.stderr


def test_verify_expects_a_hash(file: Path) -> None:
    kept = json.loads(LINES[4])["hash"]
    done = command(file, "--expect", kept.upper())
    assert done.exit_code == 0 and "the expected hash is that of line 5" in done.stdout
    file.write_bytes(b"".join(LINES[:4]))
    assert command(file).exit_code == 0
    done = command(file, "--expect", kept)
    assert done.exit_code == 1 and "cut off after line 4" in done.stderr
    assert json.loads(command(file, "--expect", kept, "--json").stdout)["intact"] is False


def test_verify_needs_a_file_and_a_hash(file: Path, tmp_path: Path) -> None:
    done = command(tmp_path / "no.jsonl")
    assert done.exit_code == 3 and "No such file" in done.stderr
    done = command(file, "--expect", "abc")
    assert done.exit_code == 2 and "64 hexadecimal digits" in done.stderr
    with pytest.raises(InputError, match="Is a directory"):
        verify(tmp_path)
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert "0 lines" in command(empty).stdout


def test_a_file_without_lines_is_read_in_pieces(tmp_path: Path) -> None:
    """Not whole, into memory."""
    path = tmp_path / "zeros"
    path.write_bytes(bytes(1 << 20))
    found = verify(path)
    assert found.broken is not None and f"{4 * MOST_BYTES} bytes" in found.broken.what
