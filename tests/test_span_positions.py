"""Positions, accounts and files of SPAN: what is read, what is refused, which reader is taken."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gpu_margin import demo_span
from gpu_margin.failures import ConfigError
from gpu_margin.io import span_source
from gpu_margin.io.span_pa2 import read_pa2
from gpu_margin.io.span_positions import Held, nearest, read_held
from gpu_margin.io.span_source import read_span
from gpu_margin.io.span_xml import read_spn
from gpu_margin.span_tables import ACCOUNT_TYPES

IDS = pl.Series(
    [
        *("CBT:06:FUT:202507", "CME:ES:FUT:202509", "CME:ES:FUT:202512"),
        *("CME:ES:OOF:202509:202508:C:6400", "CME:ES:OOF:202509:202508:P:6400"),
    ]
)


def held(
    rows: list[tuple[Any, ...]], accounts: list[tuple[Any, ...]] | None = None, **more: Any
) -> Held:
    names = ["account_id", "contract_id", "quantity"]
    positions = pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)
    told = None
    if accounts is not None:
        names = ["account_id", "account_type", "gross"]
        told = pl.DataFrame(accounts, schema=names, orient="row", infer_schema_length=None)
    return read_held(positions, IDS, told, **more)


def reasons(found: Held) -> list[tuple[str, int]]:
    return [(reason, row) for reason, row in found.failures.select("reason", "row").iter_rows()]


# ---------------------------------------------------------------- positions


def test_accounts_are_in_byte_order_and_rows_are_not_netted() -> None:
    found = held(
        [
            ("b", "CME:ES:FUT:202512", 2.0),
            ("a", "CME:ES:FUT:202509", -1.0),
            ("b", "CBT:06:FUT:202507", 0.0),
            ("b", "CME:ES:FUT:202512", -5.0),
        ]
    )
    own = found.portfolio
    assert own.accounts.to_list() == ["a", "b"] and own.sets.to_list() == ["a", "b"]
    assert own.rows.offsets.tolist() == [0, 1, 4]
    assert own.rows.column.tolist() == [1, 0, 2, 2]
    assert own.rows.value.tolist() == [-1.0, 0.0, -5.0, 2.0]
    assert own.good.tolist() == [1, 3] and own.bad.tolist() == [0, 0]
    assert found.failures.is_empty()


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (("a", "CME:ES:FUT:20250", 1.0), "contract_id", "did you mean 'CME:ES:FUT:202509'?"),
        (("a", "CME:ES:OFF:202509:202508:C:6400", 1.0), "contract_id", "did you mean 'CME:ES:OOF:"),
        (("a", "ES", 1.0), "contract_id", "gpu-margin span contracts lists"),
        (("a", None, 1.0), "contract_id", "missing contract_id"),
        ((None, "CME:ES:FUT:202509", 1.0), "account_id", "missing account_id"),
        (("a", "CME:ES:FUT:202509", None), "quantity", "missing quantity"),
        (("a", "CME:ES:FUT:202509", "much"), "quantity", "not a number"),
        (("a", "CME:ES:FUT:202509", float("nan")), "quantity", "not finite"),
        (("a", "CME:ES:FUT:202509", float("inf")), "quantity", "not finite"),
        (("a", "CME:ES:FUT:202509", -1e31), "quantity", "out of range"),
    ],
)
def test_a_bad_row_is_a_failure_and_its_account_incomplete(
    row: tuple[Any, ...], field: str, reason: str
) -> None:
    good = ("a", "CME:ES:FUT:202509", 1.0)
    rows = [good, row, ("b", "CBT:06:FUT:202507", 1.0)]
    if isinstance(row[2], str):
        rows = [(*one[:2], str(one[2])) for one in rows]
    found = held(rows)
    (failed,) = found.failures.to_dicts()
    assert failed["row"] == 2 and failed["field"] == field and reason in failed["reason"]
    assert failed["source"] == "positions"
    assert found.portfolio.good.tolist() == [1, 1]
    assert found.portfolio.bad.tolist() == [int(row[0] is not None), 0]


def test_an_account_of_bad_rows_only_is_there_without_a_good_one() -> None:
    found = held([("a", "CME:XX:FUT:202509", 1.0)])
    assert found.portfolio.good.tolist() == [0] and found.portfolio.bad.tolist() == [1]


def test_only_the_first_unknown_ids_are_looked_up() -> None:
    rows = [("a", f"CME:ES:FUT:2025{number:02d}", 1.0) for number in range(20, 90)]
    found = held(rows)
    told = [("did you mean" in reason) for reason, _ in reasons(found)]
    assert len(told) == 70 and sum(told) == 20


def test_the_nearest_id_is_quick_among_many() -> None:
    months = [f"2{year:03d}{month:02d}" for year in range(20, 60) for month in range(1, 13)]
    ids = pl.Series([f"X:P{n}:FUT:{month}" for n in range(1000) for month in months])
    assert nearest("X:P500:FUT:202613", ids) in {"X:P500:FUT:202601", "X:P500:FUT:202603"} | {
        f"X:P500:FUT:2026{month}" for month in ("10", "11", "12")
    }
    assert nearest("nothing like it", ids) is None


# ---------------------------------------------------------------- accounts


def test_accounts_are_what_they_are_told_to_be() -> None:
    rows = [(name, "CME:ES:FUT:202509", 1.0) for name in "abcd"]
    told = [("d", "Speculator", None), ("a", "member", "TRUE"), ("b", None, "no"), ("z", None, "1")]
    found = held(rows, told)
    assert found.failures.is_empty()
    book = found.book("hedger", gross=False)
    assert [ACCOUNT_TYPES[code] for code in book.account_type] == [
        *("member", "hedger", "hedger", "speculator")
    ]
    assert book.gross.tolist() == [True, False, False, False]
    other = found.book("member", gross=True)
    assert [ACCOUNT_TYPES[code] for code in other.account_type][1:3] == ["member", "member"]
    assert other.gross.tolist() == [True, False, True, True]


def test_gross_may_be_a_flag() -> None:
    rows = [("a", "CME:ES:FUT:202509", 1.0)]
    assert held(rows, [("a", "member", True)]).gross.tolist() == [1]
    assert held(rows, [("a", "member", 0)]).gross.tolist() == [0]


@pytest.mark.parametrize(
    ("told", "field", "failed"),
    [
        ([("a", "broker", None)], "account_type", 1),
        ([("a", None, "maybe")], "gross", 1),
        ([("a", "member", None), ("a", "hedger", None)], "account_id", 2),
    ],
)
def test_what_is_said_wrongly_makes_the_account_incomplete(
    told: list[tuple[Any, ...]], field: str, failed: int
) -> None:
    found = held([(name, "CME:ES:FUT:202509", 1.0) for name in "ab"], told)
    assert found.failures["field"].to_list() == [field] * failed
    assert found.portfolio.bad.tolist() == [failed, 0]
    assert found.portfolio.good.tolist() == [1, 1]


def test_a_tile_has_its_accounts() -> None:
    found = held(
        [(name, "CME:ES:FUT:202509", 1.0) for name in "abc"], [("b", "speculator", "true")]
    )
    tile = found.tile(1, 3)
    assert tile.portfolio.accounts.to_list() == ["b", "c"]
    book = tile.book("member", gross=False)
    assert book.gross.tolist() == [True, False]
    assert [ACCOUNT_TYPES[code] for code in book.account_type] == ["speculator", "member"]


def test_files_are_described(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("account_id,contract_id,quantity\na,CME:ES:FUT:202509,1\n")
    found = read_held(path, IDS)
    (described,) = found.files
    assert described["input"] == "positions" and described["rows"] == 1
    assert described["path"] == str(path) and len(described["sha256"]) == 64
    with pytest.raises(ConfigError, match=r"none\.csv"):
        read_held(tmp_path / "none.csv", IDS)
    path.write_text("account_id,quantity\na,1\n")
    lost = read_held(path, IDS)
    assert lost.failures["field"].to_list() == ["contract_id"] and not len(lost.portfolio.accounts)


# ---------------------------------------------------------------- which reader


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Which readers were asked, with what."""
    found: list[Any] = []

    def pa2(path: Path) -> Any:
        found.append("pa2")
        return type("Tables", (), {"facts": {"account_class": "CORE"}})

    def spn(path: Path, account_class: str) -> Any:
        found.append(account_class)

    monkeypatch.setattr(span_source, "read_pa2", pa2)
    monkeypatch.setattr(span_source, "read_spn", spn)
    return found


HEADER = "0 CME   20250620SE     202506201407U2YNCLR        C CUST  H HEDGE 1 CORE  M MAINT \n"


@pytest.mark.parametrize(
    ("content", "reader"),
    [
        (HEADER.encode(), "pa2"),
        (b"<?xml version='1.0'?><spanFile/>", "core"),
        (b"\xef\xbb\xbf \n<spanFile/>", "core"),
        ("<spanFile/>".encode("utf-16"), "core"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_the_reader_is_told_by_content(
    tmp_path: Path, asked: list[Any], content: bytes, reader: str, zipped: bool
) -> None:
    path = tmp_path / "file.dat"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "no file of parameters")
            archive.writestr("cme.PA2", content)
    else:
        path.write_bytes(content)
    read_span(path)
    assert asked == [reader]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER.replace("U2", "UP").encode(), r"Paris expanded format \(UP\)"),
        (HEADER.replace("U2", "U ").encode(), "an older expanded format"),
        (HEADER.replace("U2", "Q7").encode(), "a format 'Q7'"),
        (b"1 CME rest of an 80-byte record", "the standard format"),
        (b"\x1f\x8b\x08 zipped otherwise", "gzip"),
        (b"account_id,contract_id\n", "no SPAN risk parameter file"),
        (b"", "empty"),
        (b"PK\x03\x04 but no archive", "cannot be read"),
    ],
)
def test_other_formats_are_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.pa2"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_span(path)


def test_an_archive_without_files_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.zip"
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(ConfigError, match="archive is empty"):
        read_span(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_span(tmp_path / "none.pa2")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_span(tmp_path)


@pytest.mark.parametrize("name", ["cme.pa2", "cme.spn"])
@pytest.mark.parametrize("reader", [read_span, read_pa2, read_spn])
def test_broken_archives_are_refused(tmp_path: Path, name: str, reader: Any) -> None:
    """What is packed is damaged, or locked."""
    path = tmp_path / "file.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, HEADER * 9)
    data, start = path.read_bytes(), 30 + len(name)
    listed = data.index(b"PK\x01\x02")
    locked = bytearray(data)
    locked[6] = locked[listed + 8] = 1
    for broken in (data[:start] + b"\xff" * 4 + data[start + 4 :], bytes(locked)):
        path.write_bytes(broken)
        refused = "cannot read|cannot be read"
        if reader is read_spn and name.endswith("pa2"):
            refused = r"no \.spn or \.xml file"
        with pytest.raises(ConfigError, match=refused):
            reader(path)


def test_the_account_class(tmp_path: Path, asked: list[Any]) -> None:
    path = tmp_path / "file"
    path.write_text("<spanFile/>")
    read_span(path, "reserve")
    assert asked == ["reserve"]
    path.write_text(HEADER)
    with pytest.raises(ConfigError, match="is for the account class core, not reserve"):
        read_span(path, "reserve")
    with pytest.raises(ConfigError, match="none of core, reserve"):
        read_span(path, "Core")


# ---------------------------------------------------------------- the demo's file


def test_the_demo_is_read_whole_and_always_the_same(tmp_path: Path) -> None:
    text = demo_span.pa2()
    assert text == demo_span.pa2()
    path = tmp_path / "span.pa2"
    path.write_text(text)
    tables = read_span(path)
    assert tables.failures.is_empty()
    assert len(tables.contracts) == 84 and len(tables.commodities) == 4
    assert len(tables.intra) == 12 and len(tables.inter) == 4
    assert set(tables.commodities["refused"]) == {""} == set(tables.contracts["refused"])
    options = tables.contracts.filter(pl.col("type") == "OOF")
    assert (options["price"] > 0).all() and options["premium"].all()
    # Calls gain and puts lose with the price, at any volatility, and deltas say so.
    side = np.where(options["right"] == "C", 1.0, -1.0)
    own = tables.arrays[(tables.contracts["type"] == "OOF").to_numpy()]
    assert (np.sign(own[:, 12] - own[:, 10]) == side).all()
    assert (np.sign(options["delta"].to_numpy()) == side).all()
