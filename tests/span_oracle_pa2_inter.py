"""The 6 records of PA2: spreads between combined commodities."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from span_oracle_prices import columns, number

Dict = dict[str, Any]


def inter(file: Dict, line: str) -> None:
    """A spread between commodities; legs beyond the fourth stand on records that continue it."""
    method, group = columns(line, 89, 90), columns(line, 3, 5)
    above = columns(line, 110, 110) == "S"
    key = group, int(number(line, 6, 9)), method, above
    last = file["spreads"][-1] if file["spreads"] else None
    if last is not None and last["key"] == key and last["full"]:
        found = inter_legs(line, last["flat"], last["common"])
        last["legs"] += found
        last["full"] = len(found) == 4
        return
    flat = columns(line, 101, 101) == "F"
    common = number(line, 10, 16, 2) if flat else number(line, 10, 16, 4)
    legs, target = inter_legs(line, flat, common), columns(line, 95, 100).strip()
    if method == "04" and not target:
        raise ValueError("a scanning-based spread without a target")
    file["spreads"].append({
        "priority": key[1], "method": method, "flat": flat, "legs": legs, "super": above,
        "least": int(number(line, 118, 121)) or 2, "line": len(file["spreads"]), "fx": True,
        "key": key, "full": len(legs) == 4, "common": common, "target": target,
        "target_ratio": number(line, 111, 117, 4) or Fraction(1),
        "target_required": columns(line, 94, 94) != "N",
    })  # fmt: skip


def inter_legs(line: str, flat: bool, common: Fraction) -> list[Dict]:
    legs, apart = [], columns(line, 122, 122) == "Y"
    for place, first in enumerate((17, 35, 53, 71)):
        code = columns(line, first + 4, first + 9).strip()
        if code:
            own = number(line, 123 + 7 * place, 129 + 7 * place, 2 if flat else 4)
            legs.append({
                "cc": code,
                "ratio": number(line, first + 10, first + 16, 4),
                "side": columns(line, first + 17, first + 17),
                "required": columns(line, first + 3, first + 3) != "N",
                "tier": int(number(line, 102 + 2 * place, 103 + 2 * place)),
                "rate": own if apart else common,
                "target": False,
            })  # fmt: skip
    return legs


def aim(spread: Dict) -> None:
    """Marks the leg that the others become; where the target is no leg, it becomes one."""
    if spread["method"] != "04":
        return
    aimed = [leg for leg in spread["legs"] if leg["cc"] == spread["target"]]
    if not aimed:
        one = {"cc": spread["target"], "side": "A", "tier": 0, "rate": spread["common"]}
        aimed = [{**one, "required": False}]
        spread["legs"].append(aimed[0])
    aimed[0]["required"] |= spread["target_required"]
    aimed[0]["target"], aimed[0]["ratio"] = True, spread["target_ratio"]
