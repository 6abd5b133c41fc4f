"""What the slow SPAN's own readers found, as the tables that the engine is built from."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl

from gpu_margin.failures import failure_table
from gpu_margin.span_tables import SCHEMAS, Grid, SpanTables

Dict = dict[str, Any]


def tables_of(exchange: Dict) -> SpanTables:
    """The dict of `span_oracle_pa2.parse_pa2` or `span_oracle_xml.parse_spn` as tables."""
    grids: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    rows: dict[str, list[Dict]] = {name: [] for name in SCHEMAS}
    for code in sorted(exchange["commodities"]):
        _commodity(code, exchange["commodities"][code], rows, grids)
    _contracts(exchange, rows)
    refused = {one.split(":")[0]: one.split(":", 1)[1].strip() for one in exchange["refused"]}
    for row in rows["commodities"]:
        row["refused"] = refused.get(row["combined_commodity"], "")
    for spread in exchange["spreads"]:
        _inter(spread, rows)
    for (source, target), rate in exchange["rates"].items():
        rows["rates"].append({"source": source, "target": target, "rate": float(rate)})
    frames = {name: pl.DataFrame(rows[name], schema=SCHEMAS[name]) for name in SCHEMAS}
    made = [
        Grid(np.array(pairs, dtype=np.int64), np.isin(np.arange(len(pairs)), still))
        for pairs, still in grids or [((0,), (0,))]
    ]
    return SpanTables(
        **frames,
        arrays=_arrays(exchange, max(len(grid) for grid in made)),
        failures=failure_table(),
        limit=exchange["limit"],
        grids=tuple(made),
        facts={"clearing": exchange["complex"], "date": exchange["date"]},
    )


def _arrays(exchange: Dict, points: int) -> np.ndarray:
    """Arrays in cents of cents, as integers where they are whole."""
    found = np.zeros((len(exchange["contracts"]), points))
    for place, one in enumerate(exchange["contracts"].values()):
        own = [float(value * 10_000) for value in one["array"]]
        found[place] = own + own[:1] * (points - len(own))
    return found


def _commodity(code: str, one: Dict, rows: dict[str, list[Dict]], grids: list[Any]) -> None:
    grid = (tuple(one["pairs"]), tuple(one["still"]))
    if grid not in grids:
        grids.append(grid)
    size = Fraction(10) ** one["exponent"]
    accounts = {}
    for name in ("member", "hedger", "speculator"):
        accounts[f"factor_{name}"] = float(one["factors"][name])
        accounts[f"ratio_{name}"] = float(one["ratios"][name])
    rows["commodities"].append(
        {
            "combined_commodity": code,
            "exchange": one["exchange"],
            "currency": one["currency"],
            "grid": grids.index(grid),
            "limit": one["limit"],
            "wfpr": one["wfpr"],
            "scan_by_month": one["scan"] == "each",
            "inter_by_month": one["inter"] == "each",
            "minimum_rate": float(one["som"] * size),
            "minimum_greater": one["som_method"] == 1,
            **accounts,
        }
    )
    for kind, name in (("scan", "scan"), ("inter", "inter"), ("intra", "intra")):
        if one[name] != "each":
            rows["tiers"] += [_tier(code, kind, tier, None) for tier in one[name]]
    rows["tiers"] += [
        _tier(code, "minimum", tier, float(tier["rate"] * size)) for tier in one["som_tiers"]
    ]
    for month, psr in one["psr"].items():
        both = {side: float(psr[side]) for side in ("up", "down")}
        rows["ranges"].append({"combined_commodity": code, "month": month, **both})
    for month, (consumed, outright) in one["delivery"].items():
        charges = {"consumed": float(consumed * size), "outright": float(outright * size)}
        rows["delivery"].append({"combined_commodity": code, "month": month, **charges})
    if one["intra_method"] != "01":
        for spread in one["charges"]:
            _intra(code, spread, size, rows)


def _tier(code: str, kind: str, tier: Dict, rate: float | None) -> Dict:
    own = {"number": tier.get("number", 0), "start": tier["start"], "end": tier["end"]}
    if own["start"] == "000000":
        own["start"] = own["end"] = ""
    return {"combined_commodity": code, "kind": kind, **own, "rate": rate}


def _intra(code: str, spread: Dict, size: Fraction, rows: dict[str, list[Dict]]) -> None:
    number, rate = len(rows["intra"]), spread["rate"] * size
    if spread["charge"] == "P":
        places = [12 * int(leg["key"][:4]) + int(leg["key"][4:6]) for leg in spread["legs"]]
        rate *= max(places) - min(places)
    weighted = spread["charge"] == "W"
    rate = spread["rate"] / 100 if weighted else rate
    rows["intra"].append(
        {"combined_commodity": code, "rate": float(rate), "weighted": weighted, "name": ""}
    )
    for leg in spread["legs"]:
        month = leg["kind"] == "month"
        rows["intra_legs"].append(
            {
                "spread": number,
                "month": leg["key"] if month else "",
                "tier": None if month else int(leg["key"]),
                "ratio": float(leg["ratio"]),
                "side": 1 if leg["side"] == "A" else -1,
            }
        )


def _inter(spread: Dict, rows: dict[str, list[Dict]]) -> None:
    number = len(rows["inter"])
    rows["inter"].append(
        {
            "method": int(spread["method"]),
            "flat": spread["flat"],
            "above": spread["super"],
            "least": spread["least"],
            "name": str(number),
        }
    )
    for leg in spread["legs"]:
        rate = leg["rate"] if spread["flat"] else leg["rate"] / 100
        rows["inter_legs"].append(
            {
                "spread": number,
                "combined_commodity": leg["cc"],
                "ratio": float(leg["ratio"]),
                "side": 1 if leg["side"] == "A" else -1,
                "tier": leg["tier"],
                "rate": float(rate),
                "required": leg["required"],
                "target": leg["target"],
            }
        )


def _contracts(exchange: Dict, rows: dict[str, list[Dict]]) -> None:
    from span_oracle import legs_of, split_of

    place = {name: number for number, name in enumerate(exchange["contracts"])}
    for name, one in exchange["contracts"].items():
        rows["contracts"].append(
            {
                "contract_id": name,
                "exchange": one["exchange"],
                "combined_commodity": one["commodity"],
                "product": one["product"],
                "type": one["type"],
                "future_month": one.get("future", one["period"]),
                "option_month": one["option"],
                "delta_month": one["period"],
                "right": one["right"],
                "strike": None if one["strike"] is None else float(one["strike"]),
                "price": None if one["price"] is None else float(one["price"]),
                "multiplier": float(one["multiplier"]),
                "delta": float(one["delta"]),
                "scaling": float(one["scaling"]),
                "premium": one["premium"],
                "currency": one["currency"],
                "decimals": 4,
                "refused": "",
                "row": place[name],
            }
        )
        method = split_of(exchange, one)
        legs = legs_of(exchange, one) if method in ("S", "D", "M") else []
        for leg, ratio in legs:
            rows["splits"].append(
                {
                    "contract": place[name],
                    "leg": place[leg["id"]],
                    "ratio": float(ratio),
                    "replaced": not (one["right"] or method == "D"),
                }
            )
