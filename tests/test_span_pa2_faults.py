"""PA2 files with faults: each is said with its line, its field and its value, and whom it hits."""

from __future__ import annotations

import random

import pytest
from span_oracle_pa2 import parse_pa2
from span_pa2_case import (
    AIMED,
    BETWEEN,
    CALL,
    FAMILIES,
    HEAD,
    HOME,
    SCAN,
    SERIES,
    SPOT,
    TIERED,
    WHOLE,
    WITHIN,
    agrees,
    at,
    family,
    first,
    read,
    second,
)
from span_random import model
from span_random_pa2 import as_pa2, put

FUT, OOF = "CME:F:FUT:202609", "CME:O:OOF:202612:202611:C:6400"
RANGE = put((1, "B CMEF"), (16, "FUT202609"), (53, "00500"), (86, "002000"))


def faults(found):
    return found.failures.select("row", "field", "value").rows()


def refused(found):
    rows = found.commodities.select("combined_commodity", "refused").rows()
    return {code: reason for code, reason in rows if reason}


ARRAY_FAULTS = [
    (first(CALL).replace("00100+", "00x00+", 1), "array value 1", "00x00+"),
    (at(first(CALL), (103, "     ")), "array value 9", "+"),
    (at(first(CALL), (60, "*")), "array value 1", "00100*"),
    (at(first(CALL), (61, "1 100")), "array value 2", "1 100+"),
    (at(first(CALL), (55, "\xb2\xb2\xb2\xb2\xb2")), "array value 1", "\xb2\xb2\xb2\xb2\xb2+"),
    (first(CALL)[:99], "array value 8", "001"),
    (first(CALL)[:54], "array value 1", ""),
    (at(first(CALL), (109, "1234567890123x"), (123, "Y")), "high-precision settlement price",
     "1234567890123x"),
    (at(second(CALL), (91, "0a200")), "array value 16", "0a200-"),
    (at(second(CALL), (97, "0500x")), "composite delta", "0500x+"),
    (at(second(CALL), (97, "     ")), "composite delta", "+"),
    (at(second(CALL), (102, "x")), "composite delta", "05000x"),
    (second(CALL)[:96], "composite delta", ""),
    (at(second(CALL), (111, "12.3456")), "settlement price", "12.3456"),
    (at(second(CALL), (118, "x")), "settlement price sign", "x"),
    (at(second(CALL), (119, "x")), "strike sign", "x"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "field", "value"), ARRAY_FAULTS)
def test_malformed_arrays(tmp_path, line, field, value):
    """The contract is gone, and nothing else is; the other half is not blamed."""
    lines = [*WHOLE[:6], *([line, second(CALL)] if line[:2] == "81" else [first(CALL), line])]
    found = read(tmp_path, *lines)
    assert faults(found) == [(7 if line[:2] == "81" else 8, field, value)]
    assert found.contracts["contract_id"].to_list() == [FUT] and len(found.arrays) == 1
    assert refused(found) == {}


IDENTITY_FAULTS = [
    (CALL.replace("202612", "2026-2"), 7, "futures month", "2026-2"),
    (CALL.replace("202612", "20261 "), 7, "futures month", "20261"),
    (CALL.replace("202611", "abcdef"), 7, "option month", "abcdef"),
    (CALL.replace("0006400", "00064x0"), 7, "strike", "00064x0"),
    (CALL.replace("0006400", "       "), 7, "strike", ""),
    (CALL.replace("OOFC", "OOF "), 7, "option right", ""),
    (CALL.replace("OOFC", "OOFX"), 7, "option right", "X"),
]


@pytest.mark.parametrize(("who", "row", "field", "value"), IDENTITY_FAULTS)
def test_malformed_identities(tmp_path, who, row, field, value):
    found = read(tmp_path, *WHOLE[:6], first(who), second(who))
    assert faults(found) == [(row, field, value)]
    assert found.contracts["contract_id"].to_list() == [FUT]


@pytest.mark.parametrize(
    ("align", "locator", "price"),
    [("0", "003", "0003754"), ("0", "003", "0003759"), ("C", "003", "0122324"),
     ("C", "003", "0122320"), ("C", "002", "0012232"), ("K", "003", "0122640"),
     ("K", "003", "0122639")],
)  # fmt: skip
def test_prices_that_cannot_be(tmp_path, align, locator, price):
    """Eighths end in none of 4 and 9, and there are no 32 thirty-seconds."""
    options = family("O", "OOF", price=locator, align=f"{align} ", valuation="EQTY")
    lines = [HEAD, FAMILIES[0], options, *WHOLE[3:-1], second(CALL, price=price)]
    found = read(tmp_path, *lines)
    assert faults(found) == [(8, "settlement price", price.lstrip("0"))]
    assert found.contracts["contract_id"].to_list() == [FUT]


def test_halves_without_the_other(tmp_path):
    wide = f"84{CALL}" + "00000001+" * 7 + "05000+" + "0" * 8 + "0000001++"
    found = read(tmp_path, *WHOLE[:5], first(CALL), wide)
    assert faults(found) == [
        (5, "contract", "CMEF FUT 202609 0000000"),
        (6, "contract", "CMEO OOFC202612 202611 0006400"),
        (7, "contract", "CMEO OOFC202612 202611 0006400"),
    ]
    assert "no 82 record" in found.failures["reason"][0]
    assert "no 83 record" in found.failures["reason"][2]
    assert found.contracts.is_empty() and found.arrays.shape == (0, 16)


def test_one_contract_twice(tmp_path):
    """Nobody can say which is meant: the first is kept and refused."""
    found = read(tmp_path, *WHOLE, first(CALL), second(CALL, delta="07000+"))
    assert faults(found) == [(9, "contract", OOF)]
    assert found.contracts["contract_id"].to_list() == [FUT, OOF] and len(found.arrays) == 2
    assert [bool(one) for one in found.contracts["refused"]] == [False, True]


FAMILY_FAULTS = [
    (at(FAMILIES[1], (34, "0x2")), "settlement price decimal locator", "0x2"),
    (at(FAMILIES[1], (34, "099")), "settlement price decimal locator", "099"),
    (at(FAMILIES[1], (34, "-09")), "settlement price decimal locator", "-09"),
    (at(FAMILIES[1], (40, "Q")), "settlement price alignment code", "Q"),
    (at(FAMILIES[1], (34, "000"), (40, "0")), "settlement price decimal locator", "000"),
    (at(FAMILIES[1], (34, "005"), (40, "C")), "settlement price decimal locator", "005"),
    (at(FAMILIES[1], (37, "x")), "strike price decimal locator", "x00"),
    (at(FAMILIES[1], (41, "Z")), "strike price alignment code", "Z"),
    (at(FAMILIES[1], (42, "0000x0")), "contract value factor", "0000x000000000"),
    (at(FAMILIES[1], (74, "9x")), "contract value factor exponent", "9x"),
    (at(FAMILIES[1], (74, "99")), "contract value factor exponent", "99"),
]


@pytest.mark.parametrize(("line", "field", "value"), FAMILY_FAULTS)
def test_malformed_families(tmp_path, line, field, value):
    found = read(tmp_path, HEAD, FAMILIES[0], line, *WHOLE[3:])
    assert faults(found) == [(3, field, value), (7, "product", "CME:O:OOF")]
    assert "1 contracts are left out" in found.failures["reason"][1]
    assert found.contracts["contract_id"].to_list() == [FUT]


def test_families_that_nothing_describes(tmp_path):
    found = read(tmp_path, HEAD, FAMILIES[0], *WHOLE[3:])
    assert faults(found) == [(6, "product", "CME:O:OOF")]
    assert "no P record" in found.failures["reason"][0]
    found = read(tmp_path, *WHOLE[:3], HOME[:36], *WHOLE[4:])
    assert faults(found) == [(7, "product", "CME:O:OOF")]
    assert "no 2 record" in found.failures["reason"][0]
    assert read(tmp_path, HEAD, *WHOLE[4:]).contracts.is_empty()


RANGE_FAULTS = [
    (at(RANGE, (53, "0x500")), "futures price scan range", "0x500"),
    (at(RANGE, (86, "00200x")), "delta scaling factor", "00200x"),
    (at(RANGE, (166, "0x")), "futures price scan range exponent", "0x"),
    (at(RANGE, (166, "01x")), "futures price scan range exponent", "01x"),
    (at(RANGE, (166, "99")), "futures price scan range exponent", "99"),
    (at(RANGE, (165, "Q")), "price scan range quotation method", "Q"),
    (at(RANGE, (19, "2026x9")), "futures month", "2026x9"),
    (at(RANGE, (28, "1")), "option month", "1"),
]


@pytest.mark.parametrize(("line", "field", "value"), RANGE_FAULTS)
@pytest.mark.parametrize("wfpr", ["1", "2", "3"])
def test_malformed_months(tmp_path, line, field, value, wfpr):
    """Without its delta scaling no contract; without its range no capped price risk."""
    scanned = put((1, "S CC"), (9, "0100"), (83, wfpr))
    found = read(tmp_path, *WHOLE, scanned, line)
    assert faults(found) == [(10, field, value)]
    reasons = dict(found.contracts.select("contract_id", "refused").rows())
    assert field in reasons[FUT] and "line 10" in reasons[FUT] and not reasons[OOF]
    assert bool(refused(found)) == (wfpr != "1")


COMMODITY_FAULTS = [
    (at(HOME, (13, "x")), "risk exponent", "x"), (at(HOME, (18, "Q")), "option margin style", "Q"),
    (at(HOME, (19, "Q")), "limit option value flag", "Q"),
    (at(HOME, (14, "   ")), "performance bond currency", ""),
    (at(HOME, (52, "x")), "risk array decimal locator", "x"),
    (at(SCAN, (13, "x1")), "tier number", "x1"), (at(SCAN, (15, "20x609")), "tier start", "20x609"),
    (at(SCAN, (21, "20261 ")), "tier end", "20261"), (at(SCAN, (21, "      ")), "tier end", ""),
    (at(SCAN, (83, "x")), "weighted futures price risk method", "x"),
    (at(SCAN, (104, "000005x")), "short option minimum charge rate", "000005x"),
    (at(WITHIN, (11, "0x")), "tier number", "0x"),
    (at(WITHIN, (73, "1x00")), "initial to maintenance ratio of a hedger", "1x00"),
    (at(SPOT, (15, "202x09")), "delivery month", "202x09"),
    (at(SPOT, (28, "x000002")), "delivery charge rate", "x000002"),
    (at(SPOT, (63, "x")), "short option minimum charge rate", "x000170"),
    (at(SPOT, (76, "1x0")), "adjustment factor of a speculator", "1x0"),
    (at(SPOT, (79, "3")), "short option minimum method", "3"),
    (at(SERIES, (9, "x")), "spread priority", "x0001"),
    (at(SERIES, (14, "x")), "charge rate", "x000250"),
    (at(SERIES, (21, "26x9")), "leg month", "2026x9"),
    (at(SERIES, (28, "0x")), "delta per spread ratio", "0x0000"),
    (at(SERIES, (34, "C")), "leg side", "C"), (SERIES[:40], "leg side", ""),
    (at(TIERED, (24, "x1")), "leg tier", "x1"), (at(TIERED, (28, " ")), "leg side", ""),
    (at(TIERED, (26, "x1")), "delta per spread ratio", "x1"),
    (at(BETWEEN, (10, "x")), "spread credit rate", "x500000"),
    (at(BETWEEN, (27, "x")), "delta per spread ratio", "x010000"),
    (at(BETWEEN, (52, "Q")), "leg side", "Q"), (at(BETWEEN, (102, "x1")), "leg tier", "x1"),
    (at(BETWEEN, (101, "Q")), "credit calculation method", "Q"),
    (at(BETWEEN, (110, "Q")), "spread group flag", "Q"),
    (at(BETWEEN, (122, "Y"), (123, "x")), "leg credit rate", "x"),
    (at(BETWEEN, (118, "x")), "minimum number of legs", "x"),
    (at(AIMED, (95, "  ")), "target combined commodity", ""),
    (at(AIMED, (111, "x")), "target ratio", "x010000"),
    (at(AIMED, (27, "0000000")), "delta per spread ratio", "0"),
]  # fmt: skip
OTHER = "2 CME DD    0USD$PN   F2        FUT"


@pytest.mark.parametrize(("line", "field", "value"), COMMODITY_FAULTS)
def test_malformed_records_of_commodities(tmp_path, line, field, value):
    """Whoever holds the commodity fails by the name of the fault; nobody else does."""
    base = [one for one in WHOLE if not (one is HOME and line[:2] == "2 ")]
    found = read(tmp_path, *base, OTHER, line)
    mine = found.failures.filter(field=field)
    assert mine.select("row", "value").rows() == [(len(base) + 2, value)]
    assert set(refused(found)) == ({"CC", "DD"} if line[:2] == "6 " else {"CC"})
    assert field in refused(found)["CC"] and f"line {len(base) + 2}" in refused(found)["CC"]
    assert found.intra.is_empty() and found.inter.is_empty()


UNDONE = [
    (at(SPOT, (9, "11")), "delivery method 11 (basis) is not done"),
    (at(SPOT, (9, "12")), "delivery method 12 is not done"),
    (at(WITHIN, (9, "03")), "intracommodity method 03 (of the standard format) is not done"),
    (at(WITHIN, (9, "  ")), "intracommodity method blank is not done"),
    (at(SCAN, (9, "30")), "scanning method 30 is not done"),
    (at(SCAN, (83, "4")), "weighted futures price risk method 4 is not done"),
    (at(TIERED, (9, "04")), "tier spread method 04 is not done"),
    (at(BETWEEN, (89, "03")), "intercommodity method 03 (crush) is not done"),
    (at(BETWEEN, (89, "77")), "intercommodity method 77 is not done"),
]


@pytest.mark.parametrize(("line", "reason"), UNDONE)
def test_what_is_not_done_is_said(tmp_path, line, reason):
    found = read(tmp_path, *WHOLE, OTHER, line)
    assert found.failures.is_empty()
    said = f"{reason}; line {len(WHOLE) + 2} asks for it"
    assert refused(found) == dict.fromkeys(["CC", "DD"] if line[:2] == "6 " else ["CC"], said)


def test_months_and_numbers_as_tiers_at_once(tmp_path):
    found = read(tmp_path, *WHOLE, put((1, "S CC"), (9, "02")), SCAN)
    assert "02 and tiers" in refused(found)["CC"]


@pytest.mark.parametrize("line", [
    at(SERIES, (28, "000000")), at(TIERED, (26, "00")), at(BETWEEN, (27, "0000000")), SERIES[:20],
])  # fmt: skip
def test_spreads_that_take_nothing(tmp_path, line):
    """They could never be formed: said, and nobody is refused."""
    found = read(tmp_path, *WHOLE, OTHER, WITHIN, line)
    assert len(found.failures) == 1 and not refused(found)
    assert found.intra.is_empty() and found.inter.is_empty()


@pytest.mark.parametrize("line", [WITHIN, SERIES, TIERED, SPOT, SCAN])
def test_commodities_that_nothing_defines(tmp_path, line):
    found = read(tmp_path, *WHOLE, at(line, (3, "XX")))
    assert faults(found) == [(None, "combined commodity", "XX")]
    assert list(refused(found)) == ["XX"]


def test_records_without_a_commodity(tmp_path):
    lines = [at(line, (3, "      ")) for line in (WITHIN, SERIES, TIERED, SPOT, SCAN)]
    found = read(tmp_path, *WHOLE, *lines, at(HOME, (7, "      ")), "6 ALL0001")
    assert [field for _, field, _ in faults(found)] == ["combined commodity"] * 6 + [
        "intercommodity method"
    ]
    assert not refused(found)


@pytest.mark.parametrize(
    ("line", "field"),
    [("T EUR USD x000000001", "conversion multiplier"), ("T EUR USD 0000000000",
     "conversion multiplier"), ("T EU  USD 0000000001", "currency"), (HEAD, "record")],
)  # fmt: skip
def test_other_malformed_records(tmp_path, line, field):
    found = read(tmp_path, *WHOLE, line)
    assert [one[:2] for one in faults(found)] == [(9, field)] and found.rates.is_empty()
    assert len(found.contracts) == 2 and not refused(found)


@pytest.mark.parametrize("seed", range(100))
def test_one_wrong_byte(tmp_path, seed):
    """What the oracle refuses is a failure or refused here; what it reads is read the same."""
    rng = random.Random(seed)
    lines = as_pa2(model(seed % 40, xml=False)).splitlines()
    place = rng.randrange(1, len(lines))
    line = lines[place]
    column = rng.randrange(2, len(line))
    kind = rng.random()
    if kind < 0.15:
        lines[place] = line[:column]
    else:
        put_in = rng.choice("0123456789 +-ABNYFSDMx")
        lines[place] = line[:column] + put_in + line[column + (kind < 0.9) :]
    found = read(tmp_path, *lines)
    said = len(found.failures) or refused(found) or any(found.contracts["refused"])
    if said:
        return
    if line[:2] in ("P ", "6 ", "T ") and kind < 0.9:
        # Strike locators of futures and rates of legs that share one are not looked at here.
        return
    agrees(found, parse_pa2("\n".join(lines)))
