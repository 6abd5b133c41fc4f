"""PA2 files at their limits, their formats, and every record as it is read."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from span_pa2_case import CALL, FAMILIES, FUTURE, HEAD, HOME, WHOLE, family, first, read, second
from span_random import model
from span_random_pa2 import as_pa2

from gpu_margin.failures import ConfigError
from gpu_margin.io import span_pa2_lines
from gpu_margin.io.span_pa2 import read_pa2
from gpu_margin.span_tables import SCHEMAS, SpanTables


def same(one: SpanTables, other: SpanTables) -> None:
    for name in (*SCHEMAS, "failures"):
        assert getattr(one, name).equals(getattr(other, name)), name
    assert (one.arrays == other.arrays).all()
    assert one.limit == other.limit and one.facts == other.facts


def test_empty_file(tmp_path):
    for text in ("", "\n\n", "\x1a"):
        found = read(tmp_path, text) if text != "\x1a" else read(tmp_path, HEAD, text)
        for name, schema in SCHEMAS.items():
            table = getattr(found, name)
            assert table.is_empty() and table.schema == schema
        assert found.arrays.shape == (0, 16)
    assert found.facts["skipped"] == "0" and found.failures.is_empty()
    assert read(tmp_path, "").failures["reason"].to_list() == ["empty file: no header (0 record)"]


def test_header_alone(tmp_path):
    found = read(tmp_path, HEAD)
    assert found.failures.is_empty() and found.contracts.is_empty() and not found.limit
    assert dict(found.facts) == {
        "format": "PA2", "clearing": "CME", "date": "20250620", "created": "20250620 1407",
        "session": "settlement", "settlement": "early", "account_class": "CORE",
        "margin": "maintenance", "net": "net", "lines": "1", "skipped": "0",
    }  # fmt: skip


def test_header_of_reserve_and_initial(tmp_path):
    head = HEAD[:37] + "NY" + HEAD[39:66] + "2 RESRV I INIT"
    found = read(tmp_path, head)
    told = {"account_class": "RESRV", "margin": "initial", "net": "gross"}
    assert found.limit and told.items() <= found.facts.items()


@pytest.mark.parametrize(
    ("line", "way_out"),
    [
        (HEAD.replace("U2", "UP"), "Paris.*take the expanded unpacked"),
        (HEAD.replace("U2", "  "), "take the expanded unpacked"),
        ("1 CME       standard", "standard format.*take the expanded unpacked"),
        ('<?xml version="1.0"?>', "XML: read it as SPAN XML"),
        ("\xef\xbb\xbf<spanFile>", "XML: read it as SPAN XML"),
        ("account_id,contract_id", "no PA2 file"),
        ("\x00\x01\x02", "no PA2 file"),
        (HOME, "no PA2 file"),
    ],
)
def test_other_formats_are_refused(tmp_path, line, way_out):
    with pytest.raises(ConfigError, match=way_out):
        read(tmp_path, line, *WHOLE[1:])


def test_missing_file(tmp_path):
    for path in (tmp_path / "none.pa2", tmp_path, str(tmp_path / "none.zip")):
        with pytest.raises(ConfigError, match="no such file"):
            read_pa2(path)


def zipped(folder: Path, *names: str) -> Path:
    path = folder / "file.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, "\n".join(WHOLE))
    return path


@pytest.mark.parametrize("names", [("cme.s",), ("readme.txt", "CME.PA2"), ("one/a.pa2", "b.pa2")])
def test_zip(tmp_path, names):
    found = read_pa2(zipped(tmp_path, *names))
    same(found, read(tmp_path, *WHOLE))


def test_zips_that_are_none(tmp_path):
    path = zipped(tmp_path, "a.txt", "b.txt")
    with pytest.raises(ConfigError, match="2 files and none"):
        read_pa2(path)
    with pytest.raises(ConfigError, match="0 files"):
        read_pa2(zipped(tmp_path))
    data = zipped(tmp_path, "a.pa2").read_bytes()
    for broken in (data[:-30], data[:40] + b"\0\0\0\0" + data[44:], b"PK\x03\x04"):
        path.write_bytes(broken)
        with pytest.raises(ConfigError, match="zip that cannot be read"):
            read_pa2(path)


def test_one_future_and_one_option(tmp_path):
    found = read(tmp_path, *WHOLE)
    assert found.failures.is_empty()
    future, call = found.contracts.iter_rows(named=True)
    assert future == {
        "contract_id": "CME:F:FUT:202609", "exchange": "CME", "combined_commodity": "CC",
        "product": "F", "type": "FUT", "future_month": "202609", "option_month": "",
        "delta_month": "202609", "right": "", "strike": None, "price": 123.45, "multiplier": 50.0,
        "delta": 0.5, "scaling": 1.0, "premium": False, "currency": "USD", "decimals": 0,
        "refused": "", "row": 5,
    }  # fmt: skip
    assert call == {
        **future, "contract_id": "CME:O:OOF:202612:202611:C:6400", "product": "O", "type": "OOF",
        "future_month": "202612", "option_month": "202611", "delta_month": "202612", "right": "C",
        "strike": 6400.0, "premium": True, "row": 7,
    }  # fmt: skip
    assert found.arrays.tolist() == [[100.0] * 9 + [-200.0] * 7] * 2


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("block", [1, 97, 130, 1000, 1 << 24])
def test_lines_in_blocks(tmp_path, monkeypatch, end, block):
    """Ends of lines and where a block ends change nothing; nor does the last line's end."""
    text = as_pa2(model(5)).splitlines()
    told = read(tmp_path, *text)
    monkeypatch.setattr(span_pa2_lines, "_BLOCK", block)
    same(told, read(tmp_path, *text, end=end))
    if block > 1:
        more = read(tmp_path, *[f"{line:220}" for line in text], "", end=end)
        same(told, more)


def test_latin_letters(tmp_path):
    named = family("F", "FUT", valuation="FUT").replace(" " * 15, "CAF\xc9 \xa0\x85\x1c       ", 1)
    found = read(tmp_path, HEAD, named, *WHOLE[2:])
    same(found, read(tmp_path, *WHOLE))


def test_day_codes_are_part_of_the_identity(tmp_path):
    weekly = [CALL.replace("202611  ", f"202611{day}") for day in ("W1", "12", "00")]
    lines = [line for who in weekly for line in (first(who), second(who))]
    found = read(tmp_path, *WHOLE[:6], *lines)
    assert found.failures.is_empty()
    assert found.contracts["contract_id"].to_list()[1:] == [
        f"CME:O:OOF:202612:202611{day}:C:6400" for day in ("W1", "12", "")
    ]


def test_options_without_a_futures_month(tmp_path):
    who = CALL.replace("202612", "000000")
    physical = FUTURE.replace("202609", "      ")
    lines = [first(who), second(who), first(physical), second(physical)]
    found = read(tmp_path, *WHOLE[:4], *lines).contracts
    assert found["contract_id"].to_list() == ["CME:O:OOF:202611:C:6400", "CME:F:FUT"]
    assert found["delta_month"].to_list() == ["202611", ""]


def test_no_price(tmp_path):
    for price in ("9999999", "       "):
        found = read(tmp_path, *WHOLE[:-1], second(CALL, price=price))
        assert found.contracts["price"].to_list() == [123.45, None] and found.failures.is_empty()
    wide = first(CALL, wide="9" * 14, flag="Y")
    assert read(tmp_path, *WHOLE[:-2], wide, second(CALL)).contracts["price"][1] is None


def test_high_precision_prices(tmp_path):
    wide = first(CALL, wide="12345678901234", flag="Y")
    found = read(tmp_path, *WHOLE[:-2], wide, second(CALL, price="0000000", signs="-+"))
    assert found.contracts["price"][1] == -123456789012.34
    narrow = first(CALL, wide="12345678901234")
    assert read(tmp_path, *WHOLE[:-2], narrow, second(CALL)).contracts["price"][1] == 123.45


@pytest.mark.parametrize(
    ("raw", "locator", "align", "sign", "strike"),
    [
        ("0006400", "000", " ", "+", "6400"), ("0000005", "-02", " ", "-", "-500"),
        ("0001250", "003", " ", "+", "1.25"), ("0000001", "010", " ", "+", "0.0000000001"),
        ("9999999", "009", " ", "-", "-0.009999999"), ("0000000", "002", " ", "-", "0"),
        ("0003757", "003", "0", "+", "3.7575"), ("0106053", "003", "C", "+", "106.16796875"),
        ("0003540", "003", "K", "+", "3.84375"), ("0010616", "002", "C", "+", "106.5"),
        ("   6400", "000", " ", "+", "6400"), ("0000010", "", " ", " ", "10"),
    ],
)  # fmt: skip
def test_strikes(tmp_path, raw, locator, align, sign, strike):
    options = family("O", "OOF", strike=f"{locator:3}", align=f" {align}", valuation="EQTY")
    who = CALL.replace("0006400", raw)
    found = read(tmp_path, HEAD, options, HOME, first(who), second(who, signs=f"+{sign}"))
    assert found.failures.is_empty()
    assert found.contracts["strike"].to_list() == [float(strike)]
    assert found.contracts["contract_id"].to_list() == [f"CME:O:OOF:202612:202611:C:{strike}"]


def test_strikes_of_both_signs(tmp_path):
    """The sign is in the second half only: the first halves of both are the same."""
    lines = [first(CALL), first(CALL), second(CALL, signs="+-"), second(CALL, delta="07000+")]
    found = read(tmp_path, *WHOLE[:4], *lines)
    assert found.failures.is_empty()
    assert found.contracts["strike"].to_list() == [-6400, 6400]
    assert found.contracts["delta"].to_list() == [0.5, 0.7]
    assert found.contracts["row"].to_list() == [5, 6]


def test_halves_in_any_order(tmp_path):
    """Halves belong together by what they say, wherever they stand."""
    text = as_pa2(model(8)).splitlines()
    told = read(tmp_path, *text)
    arrays = [line for line in text if line[:2] in ("81", "82")]
    rest = [line for line in text if line not in arrays]
    rng = np.random.default_rng(3)
    for _ in range(5):
        mixed = [*rest, *[arrays[place] for place in rng.permutation(len(arrays))]]
        found = read(tmp_path, *mixed)
        assert found.failures.is_empty()
        by_id = dict(zip(found.contracts["contract_id"], found.arrays.tolist(), strict=True))
        assert by_id == dict(zip(told.contracts["contract_id"], told.arrays.tolist(), strict=True))
        left = found.contracts.drop("row").sort("contract_id")
        assert left.equals(told.contracts.drop("row").sort("contract_id"))
        assert found.ranges.sort(pl.all()).equals(told.ranges.sort(pl.all()))


def test_wide_arrays_and_exponents(tmp_path):
    """83 and 84 have eight digits; a product's decimals and the risk exponent move the point."""
    wide = [
        f"83{CALL}" + "00010000+" * 9 + "0" * 14 + "N",
        f"84{CALL}" + "99999999-" * 7 + "05000-" + "0" * 8 + "0012345++",
    ]
    cases = {"02+": (0, 2, 1), "02-": (3, 0, 10**5), "1": (3, 0, 100), "0": (0, 0, 1)}
    for written, (exponent, decimals, times) in cases.items():
        slot = f"{int(written[:2]) if len(written) > 1 else int(written)}{written[2:]}"
        home = f"{HOME[:12]}{exponent}{HOME[13:]}{slot}"
        found = read(tmp_path, *WHOLE[:3], home, *WHOLE[4:6], *wide)
        assert found.failures.is_empty()
        assert found.contracts["decimals"].to_list() == [0, decimals]
        assert found.arrays[1].tolist() == [10_000.0 * times] * 9 + [-99_999_999.0 * times] * 7
        assert found.arrays[0][0] == 100 * 10**exponent
    assert found.contracts["delta"].to_list() == [0.5, -0.5]


def test_factors_of_variable_ticks(tmp_path):
    options = f"{family('O', 'OOF', valuation='EQTY'):160}1"
    own = f"{second(CALL):137}0000025000000003-"
    lines = [HEAD, FAMILIES[0], options, HOME, first(FUTURE), f"{second(FUTURE):137}" + "junk" * 4]
    found = read(tmp_path, *lines, first(CALL), own)
    assert found.contracts["multiplier"].to_list() == [50.0, 0.025]
    assert found.failures.is_empty()
    none = read(tmp_path, *lines, first(CALL), second(CALL))
    assert none.contracts["multiplier"].to_list() == [50.0, 50.0]


def test_who_pays_up_front(tmp_path):
    """The family says it, or where it is silent the commodity's style."""
    for valuation, style, premium in (
        ("EQTY", "F", True), ("FUT", "P", False), ("FUTDA", " ", False),
        ("", "P", True), ("", " ", True), ("", "F", False),
    ):  # fmt: skip
        options = family("O", "OOF", valuation=valuation)
        home = HOME[:17] + style + HOME[18:]
        found = read(tmp_path, HEAD, FAMILIES[0], options, home, *WHOLE[4:])
        assert found.contracts["premium"].to_list() == [False, premium]


def test_unknown_records_are_counted(tmp_path):
    extra = ["V CMEGA", "91CME", "R x", "? what", "1 CBT  01", "", "   "]
    found = read(tmp_path, *WHOLE, *extra, "5 CME       CC", "5 ALL       CC")
    assert found.facts["skipped"] == "5" and found.facts["groups"] == "CME ALL"
    assert found.facts["lines"] == str(len(WHOLE) + len(extra) + 2)
    assert found.contracts.equals(read(tmp_path, *WHOLE).contracts)
