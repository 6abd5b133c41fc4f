"""SPAN's files through the reader and the engine against every vector that is one, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from span_engine_case import close, required
from span_vectors_case import data, vector

from gpu_margin.io.span_pa2 import read_pa2
from gpu_margin.span_build import build

Dict = dict[str, Any]
CASES = range(15)


def named(words: str) -> str:
    """What the hand-made cases call a contract, as its id."""
    parts = words.split()
    if parts[1] == "FUT":
        return f"XYZ:{parts[0]}:FUT:{parts[2]}"
    expiry = parts[3].replace("/", "")
    return f"XYZ:{parts[0]}:OOF:202512:{expiry}:{parts[2][0]}:{parts[2][1:]}"


@pytest.mark.parametrize("place", CASES)
def test_synthetic_pa2(place: int) -> None:
    cases = vector("synthetic_pa2_selfderived")["cases"]
    assert len(cases) == len(CASES)
    case = cases[place]
    file = build(read_pa2(data("span_synthetic_riskkit.pa2")))
    assert file.failures.is_empty()
    held = {named(words): quantity for words, quantity in case["pos"].items()}
    found = required(file, held)
    rows = found["rows"]
    figures = {
        "active": "active_scenario",
        "intra": "intra_spread_charge",
        "som": "short_option_minimum",
        "risk": "risk",
        "nov": "net_option_value",
        "lov": "long_option_value",
    }
    for short, name in figures.items():
        if short in case:
            close(rows["CC-ZZ"][name], case[short])
    if "sov" in case:
        close(-rows["CC-ZZ"]["short_option_value"], case["sov"])
    for short, name in (("scan", "scan_risk"), ("inter_credit", "inter_spread_credit")):
        wanted = case.get(short, {})
        wanted = wanted if isinstance(wanted, dict) else dict.fromkeys(rows, wanted)
        for code, amount in wanted.items():
            close(rows[code][name], amount)
    if "total" in case:
        close(found["totals"]["USD"], case["total"])
    if "speculator_initial" in case:
        close(required(file, held, "speculator", True)["totals"]["USD"], case["speculator_initial"])


def real_file(folder: Path, lines: list[str]) -> Path:
    path = folder / "real.pa2"
    path.write_text("\n".join(lines) + "\n")
    return path


def where(table: pl.DataFrame, **wanted: Any) -> list[Dict]:
    return table.filter(*(pl.col(name) == value for name, value in wanted.items())).to_dicts()


def test_pa2_real_lines_of_2025(tmp_path: Path) -> None:
    """What each line says, where the tables have it; its columns are those of the vector."""
    said = [one for one in vector("pa2_real_lines_parsed") if "2019" not in one["file"]]
    lines = [one["line"] for one in said if one["line"][:2] not in ("81", "82")]
    assert len(lines) >= 15
    # The series spread's commodity has no line that says that it has such spreads.
    found = read_pa2(real_file(tmp_path, [*lines, "3 17    10"]))
    assert found.facts["clearing"] == "CME" and found.facts["date"] == "20250620"
    assert not found.limit
    assert where(found.rates, source="CLP", target="USD")[0]["rate"] == 0.001063
    meal = where(found.tiers, combined_commodity="06", kind="intra")
    assert [(one["number"], one["start"], one["end"]) for one in meal] == [
        (1, "202507", "202507"),
        (2, "202508", "202508"),
        (3, "202509", "202509"),
        (4, "202510", "202511"),
    ]
    (bean,) = where(found.commodities, combined_commodity="06")
    assert bean["ratio_speculator"] == 1.1 and bean["ratio_member"] == bean["ratio_hedger"] == 1
    spread = found.intra.with_row_index("spread")
    (fly,) = where(spread, combined_commodity="06")
    legs = where(found.intra_legs, spread=fly["spread"])
    assert fly["rate"] == 100 and [(leg["tier"], leg["ratio"], leg["side"]) for leg in legs] == [
        (14, 1, 1),
        (15, 2, -1),
        (16, 1, 1),
    ]
    (series,) = where(spread, combined_commodity="17")
    legs = where(found.intra_legs, spread=series["spread"])
    assert series["rate"] == 250 and [
        (leg["month"], leg["ratio"], leg["side"]) for leg in legs
    ] == [("202509", 1, 1), ("202512", 2, -1), ("202603", 1, 1)]
    (dow,) = where(found.commodities, combined_commodity="YM")
    assert dow["minimum_rate"] == 170 and dow["minimum_greater"]
    (day,) = where(found.delivery, combined_commodity="YM")
    assert (day["month"], day["consumed"], day["outright"]) == ("202506", 1, 0)
    (oil,) = where(found.commodities, combined_commodity="07")
    assert oil["wfpr"] == 2 and not oil["scan_by_month"]
    assert not where(found.tiers, combined_commodity="07", kind="scan")
    assert len(where(found.tiers, combined_commodity="07", kind="inter")) == 2
    (gas,) = found.inter.to_dicts()
    assert gas["method"] == 4 and gas["above"] and gas["least"] == 1 and not gas["flat"]
    legs = found.inter_legs.to_dicts()
    assert [(leg["combined_commodity"], leg["target"], leg["required"]) for leg in legs] == [
        ("NY-HH", False, False),
        ("NY-HP", False, False),
        ("NY-NG", True, False),
    ]
    assert legs[0]["rate"] == 0.98


def test_pa2_real_contracts_of_2019(tmp_path: Path) -> None:
    """A real array, its price and its delta scaling; a position in it."""
    text = data("cme_pa2_real_lines_20190102.txt").read_text().splitlines()
    own = [line for line in text if line[:5] in ("0 CME", "P CME", "B CME", "81CME", "82CME")]
    assert len(own) == 5
    cc = "2 CME SP    0USD$PN   ES        FUT"
    found = read_pa2(real_file(tmp_path, [own[0], cc, *own[1:]]))
    assert found.failures.is_empty()
    (one,) = found.contracts.to_dicts()
    assert one["contract_id"] == "CME:ES:FUT:201903" and one["combined_commodity"] == "SP"
    assert one["price"] == 2_511 and one["multiplier"] == 50 and one["scaling"] == 0.2
    array = found.arrays[0] / 10 ** one["decimals"]
    assert array.tolist() == [
        *(0, 0, -2_000, -2_000, 2_000, 2_000, -4_000, -4_000),
        *(4_000, 4_000, -6_000, -6_000, 6_000, 6_000, -5_940, 5_940),
    ]
    (wide,) = found.ranges.to_dicts()
    assert wide["up"] == wide["down"] == 30_000
    assert required(build(found), {"CME:ES:FUT:201903": 3})["totals"] == {"USD": 18_000}


@pytest.mark.parametrize("place", range(19))
def test_cme_price_decode(place: int, tmp_path: Path) -> None:
    """A contract whose price is written so, in a file."""
    cases = vector("cme_price_decode")["cases"]
    assert len(cases) == 19
    raw, locator, alignment, wanted = cases[place]
    found = priced(tmp_path, raw, locator, alignment)
    assert found.failures.is_empty()
    assert found.contracts["price"].to_list() == [wanted]


def priced(folder: Path, raw: str, locator: int, alignment: str, sign: str = "+") -> Any:
    values = "00000+" * 9
    return read_pa2(
        real_file(
            folder,
            [
                "0 X     20260101SC                 U2YN",
                f"P X  F         FUT               {locator:03d}000{alignment}0000000010000000",
                "2 X   CC    0USD PN   F         FUT",
                f"81X  F         F         FUT 202601{' ' * 12}0000000{values}0000000{raw}N",
                f"82X  F         F         FUT 202601{' ' * 12}0000000{values[:42]}10000+00000000"
                f"{raw}{sign}+",
            ],
        )
    )


def test_cme_price_decode_refuses(tmp_path: Path) -> None:
    """Last digits that no eighth has, and parts that are too many, are failures of their line."""
    for raw, code in (("0106014", "C"), ("0106019", "C"), ("0106320", "C"), ("0000374", "0")):
        found = priced(tmp_path, raw, 3, code)
        assert found.failures.height == 1 and found.failures["row"].to_list() == [5]
    assert priced(tmp_path, "0003763", 2, " ", "-").contracts["price"].to_list() == [-37.63]
    assert priced(tmp_path, "0000012", -2, " ").contracts["price"].to_list() == [1_200]
