"""Small PA2 files by hand, and the fast reader's tables compared with the slow reader's dict."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
from span_oracle import allocated
from span_oracle_pa2 import ACCOUNTS
from span_random_pa2 import put

from gpu_margin.io.span_pa2 import read_pa2
from gpu_margin.span_tables import BY_SCANNING, SCHEMAS, SIXTEEN, SpanTables

Dict = dict[str, Any]
METHODS = {1: "01", 2: "02", 4: "04", 20: "20"}
INTRA_ONLY = ("01",)
HEAD = "0 CME   20250620SE     202506201407U2YNCLR        C CUST  H HEDGE 1 CORE  M MAINT "
# One future and one option on it, with everything that they need.
FAMILY = "P CME{product:10}{kind:3}{name:15}{price}{strike}{align}00000500000000{rest}"
HOME = "2 CME CC    0USD$PN   F         FUT   O         OOF"
FUTURE = "CMEF         F         FUT 202609            0000000"
CALL = "CMEO         F         OOFC202612   202611   0006400"


def family(product: str, kind: str, price: str = "002", strike: str = "000", align: str = "  ",
           valuation: str = "", rest: str = "") -> str:  # fmt: skip
    line = FAMILY.format(
        product=product, kind=kind, name="", price=price, strike=strike, align=align, rest=""
    )
    return f"{line:65}USD{'':48}{valuation:5}{rest}"


def first(who: str, values: str = "00100+" * 9, wide: str = "0" * 14, flag: str = "N") -> str:
    return f"81{who}{values}{wide}{flag}"


def second(
    who: str, values: str = "00200-" * 7, delta: str = "05000+", price: str = "0012345",
    signs: str = "++",
) -> str:  # fmt: skip
    return f"82{who}{values}{delta}{'0' * 8}{price}{signs}"


FAMILIES = [family("F", "FUT", valuation="FUT"), family("O", "OOF", valuation="EQTY")]
WHOLE = [HEAD, *FAMILIES, HOME, first(FUTURE), second(FUTURE), first(CALL), second(CALL)]


def at(line: str, *fields: tuple[int, str]) -> str:
    """A line with other texts at some columns, counted from 1."""
    for column, text in fields:
        line = f"{line:{column - 1}}"
        line = line[: column - 1] + text + line[column - 1 + len(text) :]
    return line


SERIES = put((1, "E CC"), (9, "00001"), (14, "0000250"), (21, "2609   010000A2612   010000B"))
TIERED = put((1, "C CC"), (9, "100102"), (15, "0000400"), (22, "010101A020201B"))
SCAN = put((1, "S CC"), (9, "2101"), (13, "01202609202612"), (83, "1"), (104, "0000050"))
WITHIN = put((1, "3 CC"), (9, "10"), (11, "01202609202612"), (69, "100010001100"))
SPOT = put((1, "4 CC"), (9, "10"), (13, "01202609"), (21, "0000001"), (28, "0000002"),
           (63, "0000170"), (70, "1001001001"))  # fmt: skip
BETWEEN = put(
    (1, "6 ALL"), (6, "0001"), (10, "0500000"), (17, "CMENCC    0010000A"),
    (35, "CMENDD    0010000B"), (89, "01"),
)  # fmt: skip
AIMED = at(BETWEEN, (89, "04"), (91, "CMEYCC"), (111, "0010000"), (118, "0002"))


def read(folder: Path, *lines: str, end: str = "\n") -> SpanTables:
    path = folder / "file.pa2"
    path.write_bytes(end.join(lines).encode("latin-1"))
    return read_pa2(path)


def rows(table: pl.DataFrame) -> list[Dict]:
    return list(table.iter_rows(named=True))


def agrees(found: SpanTables, oracle: Dict) -> None:
    """Every figure that the oracle has, and nothing beside it."""
    for name, schema in SCHEMAS.items():
        assert getattr(found, name).schema == schema, name
    assert found.failures.is_empty()
    assert found.limit == oracle["limit"]
    assert found.facts["account_class"] == oracle["class"]
    assert {(one["source"], one["target"]): one["rate"] for one in rows(found.rates)} == {
        pair: float(rate) for pair, rate in oracle["rates"].items()
    }
    contracts_agree(found, oracle)
    commodities_agree(found, oracle)
    spreads_agree(found, oracle)
    splits_agree(found, oracle)


def contracts_agree(found: SpanTables, oracle: Dict) -> None:
    assert found.contracts["contract_id"].to_list() == list(oracle["contracts"])
    for one, array in zip(rows(found.contracts), found.arrays, strict=True):
        told = oracle["contracts"][one["contract_id"]]
        assert [Fraction(int(value)) / 10 ** one["decimals"] for value in array] == told["array"]
        exact = {
            "exchange": told["exchange"], "combined_commodity": told["commodity"],
            "product": told["product"], "type": told["type"], "option_month": told["option"],
            "delta_month": told["period"], "right": told["right"], "premium": told["premium"],
            "currency": told["currency"], "refused": "",
        }  # fmt: skip
        assert {name: one[name] for name in exact} == exact
        assert one["future_month"] in (told["period"], "")
        for name in ("strike", "price", "multiplier", "delta", "scaling"):
            assert one[name] == (None if told[name] is None else float(told[name])), name


def commodities_agree(found: SpanTables, oracle: Dict) -> None:
    assert found.commodities["combined_commodity"].to_list() == list(oracle["commodities"])
    assert found.grids == (SIXTEEN,)
    for one in rows(found.commodities):
        told = oracle["commodities"][one["combined_commodity"]]
        exact = {
            "exchange": told["exchange"].strip(), "currency": told["currency"], "grid": 0,
            "limit": told["limit"], "wfpr": told["wfpr"], "refused": "",
            "scan_by_month": told["scan"] == "each", "inter_by_month": told["inter"] == "each",
            "minimum_greater": told["som_method"] == 1,
            "minimum_rate": float(told["som"] * 10 ** told["exponent"]),
        }  # fmt: skip
        for name in ACCOUNTS:
            exact |= {f"factor_{name}": float(told["factors"][name])}
            exact |= {f"ratio_{name}": float(told["ratios"][name])}
        assert one == {"combined_commodity": one["combined_commodity"], **exact}
        assert tiers_of(found, one["combined_commodity"]) == tiers_told(told)
        mine = pl.col("combined_commodity") == one["combined_commodity"]
        ranges = {month: (up, down) for _, month, up, down in found.ranges.filter(mine).rows()}
        assert ranges == {
            month: (float(each["up"]), float(each["down"])) for month, each in told["psr"].items()
        }
        times = 10 ** told["exponent"]
        assert {
            month: (consumed, outright)
            for _, month, consumed, outright in found.delivery.filter(mine).rows()
        } == {
            month: (float(consumed * times), float(outright * times))
            for month, (consumed, outright) in told["delivery"].items()
        }


def tiers_of(found: SpanTables, code: str) -> Dict:
    kinds: Dict = {}
    for one in rows(found.tiers.filter(pl.col("combined_commodity") == code)):
        kinds.setdefault(one["kind"], []).append(
            (one["number"], one["start"], one["end"], one["rate"])
        )
    return kinds


def tiers_told(told: Dict) -> Dict:
    names = {"scan": "scan", "inter": "inter", "intra": "intra", "som_tiers": "minimum"}
    kinds: Dict = {}
    for name, kind in names.items():
        for tier in told[name] if told[name] != "each" else []:
            rate = tier.get("rate")
            money = None if rate is None else float(rate * 10 ** told["exponent"])
            kinds.setdefault(kind, []).append((tier["number"], tier["start"], tier["end"], money))
    return kinds


def spreads_agree(found: SpanTables, oracle: Dict) -> None:
    for code, told in oracle["commodities"].items():
        mine = found.intra.with_row_index("spread").filter(combined_commodity=code)
        told_of = [] if told["intra_method"] in INTRA_ONLY else told["charges"]
        for one, other in zip(rows(mine), told_of, strict=True):
            assert one["rate"] == float(other["rate"] * 10 ** told["exponent"])
            assert not one["weighted"] and str(other["priority"]) in one["name"]
            assert rows(found.intra_legs.filter(spread=one["spread"])) == [
                {
                    "spread": one["spread"],
                    "month": leg["key"] if leg["kind"] == "month" else "",
                    "tier": leg["key"] if leg["kind"] == "tier" else 0,
                    "ratio": float(leg["ratio"]),
                    "side": 1 if leg["side"] == "A" else -1,
                }
                for leg in other["legs"]
            ]
    for place, (one, other) in enumerate(zip(rows(found.inter), oracle["spreads"], strict=True)):
        assert METHODS[one["method"]] == other["method"]
        assert one["flat"] == other["flat"] and one["above"] == other["super"]
        assert one["least"] == other["least"] and str(other["priority"]) in one["name"]
        share = 1 if other["flat"] and one["method"] != BY_SCANNING else 100
        assert rows(found.inter_legs.filter(spread=place)) == [
            {
                "spread": place,
                "combined_commodity": leg["cc"],
                "ratio": float(leg["ratio"]),
                "side": 1 if leg["side"] == "A" else -1,
                "tier": leg["tier"],
                "rate": float(leg["rate"] / share),
                "required": leg["required"],
                "target": leg.get("target", False),
            }
            for leg in other["legs"]
        ]


def splits_agree(found: SpanTables, oracle: Dict) -> None:
    """What one bought of each contract is replaced by, or sends its delta to."""
    ids = found.contracts["contract_id"].to_list()
    mine: dict[str, list[Any]] = {}
    for one in rows(found.splits):
        leg = (ids[one["leg"]], one["ratio"], one["replaced"])
        mine.setdefault(ids[one["contract"]], []).append(leg)
    for name in ids:
        parts = allocated(oracle, {name: Fraction(1)})
        told = []
        for leg, quantity, what in parts:
            if what == "delta":
                delta = oracle["contracts"][name]["delta"]
                assert delta, "a delta of nought says nothing of ratios"
                told.append((leg["id"], float(quantity / delta), False))
            if what == "all" and (leg["id"] != name or quantity != 1):
                told.append((leg["id"], float(quantity), True))
        assert mine.get(name, []) == told
