"""Combined commodities of a SPAN XML file: methods, tiers, delivery, and who owns which family.

A figure that cannot be used, or a method that is not done, refuses its combined commodity: accounts
that hold it fail by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gpu_margin.io.span_xml_charges import charges_of, unit_of
from gpu_margin.io.span_xml_grids import Grids, grid_of
from gpu_margin.io.span_xml_rates import ALL, LEVELS, Class, Rates, adjusted, alike, picked
from gpu_margin.io.span_xml_tree import Bad, Node
from gpu_margin.span_tables import ACCOUNT_TYPES, CAPPED, NORMAL, SCAN_RANGE, SIXTEEN, Grid

Row = dict[str, Any]

_WFPR = {"NORMAL": NORMAL, "SCANRANGE_CAP": CAPPED, "SCANRANGE": SCAN_RANGE}
_SPLITS = {"SPLIT": "S", "DELTASPLIT": "D", "NONE": ""}
_TIERS = {"scanTiers": "scan", "intraTiers": "intra", "interTiers": "inter", "somTiers": "minimum"}
# What lies beyond all months: a bound that is no bound.
_ALWAYS = ("", "999999", "99999999")


@dataclass(frozen=True)
class Link:
    """A family of contracts that belongs to a combined commodity.

    `scaling` is of deltas; `split` is how its combinations are margined: S, D or "" (not split).
    """

    commodity: str
    scaling: float
    split: str


@dataclass
class Commodity:
    """What a file says of a combined commodity.

    `based` [class] are the rate ids that its requirements are based on; `rows` are rows of the
    tables tiers, delivery, intra and intra_legs (their spreads from 0).
    """

    code: str
    line: int
    currency: str
    grid: int
    exchange: str = ""
    refused: str = ""
    limit: bool = False
    wfpr: int = NORMAL
    greater: bool = False
    factors: dict[str, float] = field(default_factory=dict)
    based: dict[Class, int] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)

    @property
    def bases(self) -> list[int]:
        """The rate ids of its figures, each once."""
        return list(dict.fromkeys(self.based.values()))

    @property
    def row(self) -> Row:
        """Its row of `commodities`; a minimum per short option is one of its tiers here."""
        return {
            "combined_commodity": self.code,
            "exchange": self.exchange,
            "currency": self.currency,
            "grid": self.grid,
            "limit": self.limit,
            "wfpr": self.wfpr,
            "scan_by_month": False,
            "inter_by_month": False,
            "minimum_rate": 0.0,
            "minimum_greater": self.greater,
            **self.factors,
            "refused": self.refused,
        }


class Commodities:
    """All combined commodities of a clearing organisation, and families by what links name."""

    def __init__(self, house: Node, rates: Rates) -> None:
        self.rates = rates
        self.grids = Grids()
        self.faults: list[Bad] = []
        self.by_code: dict[str, Commodity] = {}
        self.links: dict[tuple[str, ...], Link] = {}
        self.unit = unit_of(house)
        self.limit = False
        # Why none of them can be margined, and none of those without a grid of their own.
        self._refused, self._no_grid = "", ""
        self._whole = self._common(house)
        for node in house.all("ccDef"):
            self._define(node)

    def _common(self, house: Node) -> Grid:
        """What counts for all: rates of account classes, the limit of option values, the grid."""
        self.faults += self.rates.faults
        if self.rates.faults:
            self._refused = f"rates of account classes: {_told(self.rates.faults[0])}"
        try:
            self.limit = house.flag("capAnov")
        except Bad as bad:
            self.faults.append(bad)
            self._refused = self._refused or _told(bad)
        try:
            return grid_of(house)
        except Bad as bad:
            self.faults.append(bad)
            self._no_grid = f"its scan points cannot be used: {_told(bad)}"
            return SIXTEEN

    def refuse(self, code: str, reason: str) -> None:
        """Say of a combined commodity why it cannot be margined; the first reason counts."""
        one = self.by_code.get(code)
        if one is not None and not one.refused:
            one.refused = reason

    def _define(self, node: Node) -> None:
        code = node.word("cc")
        if not code:
            self.faults.append(Bad("a combined commodity without a code", node.line, "cc"))
            return
        if code in self.by_code:
            self.faults.append(Bad("a combined commodity is there twice", node.line, "cc", code))
            self.refuse(code, "it is there twice")
            return
        factors = {f"{name}_{kind}": 1.0 for kind in ACCOUNT_TYPES for name in ("factor", "ratio")}
        one = Commodity(code, node.line, node.word("currency"), 0, factors=factors)
        one.based = dict(self.rates.of)
        self.by_code[code] = one
        one.refused = self._refused or ("" if node.first("pointDef") else self._no_grid)
        try:
            one.grid = self.grids.place(grid_of(node, self._whole))
            self._read(node, one)
        except Bad as bad:
            self.faults.append(bad)
            self.refuse(code, _told(bad))
        self._link(node, one)

    def _read(self, node: Node, one: Commodity) -> None:
        if not one.currency:
            raise Bad("no currency", node.line, "currency")
        one.limit = node.flag("capAnov")
        one.wfpr = _method(node, "wfprMeth", _WFPR, "NORMAL")
        one.greater = _method(node, "somMeth", {"MAX": True, "GROSS": False}, "GROSS")
        steps = adjusted(node, self.rates)
        one.based = {each: steps[each].base for each in ALL}
        for account, level in ALL:
            name = "factor" if level == LEVELS[0] else "ratio"
            one.factors[f"{name}_{account}"] = steps[account, level].factor
        for reason in _not_done(node):
            self.faults.append(reason)
            self.refuse(one.code, reason.reason)

        def rows(base: int) -> dict[str, list[Row]]:
            return _rows(node, one.code, base, self.unit)

        one.rows = alike(rows, one.bases, node.line)

    def _link(self, node: Node, one: Commodity) -> None:
        for link in node.all("pfLink"):
            try:
                split = _method(link, "cmbMeth", _SPLITS, node.word("cmbMeth", "NONE"))
                mine = Link(one.code, link.number("sc", 1.0), split)
            except Bad as bad:
                self.faults.append(bad)
                self.refuse(one.code, _told(bad))
                continue
            exchange = link.word("exch")
            one.exchange = one.exchange or exchange
            self._claim((exchange, link.word("pfId")), mine, link)
            kind = (exchange, link.word("pfCode"), link.word("pfType"))
            if all(kind):
                self._claim(kind, mine, link)

    def _claim(self, key: tuple[str, ...], mine: Link, node: Node) -> None:
        other = self.links.setdefault(key, mine)
        if other.commodity != mine.commodity:
            said = f"{mine.commodity} and {other.commodity} both have the family {':'.join(key)}"
            self.faults.append(Bad(said, node.line, "pfLink", key[-1]))
            self.refuse(mine.commodity, said)
            self.refuse(other.commodity, said)


def _told(bad: Bad) -> str:
    value = f" ({bad.value!r})" if bad.value else ""
    return f"{bad.reason}{value}, line {bad.line}"


def _method(node: Node, name: str, known: dict[str, Any], default: str) -> Any:
    said = node.word(name) or default
    if said not in known:
        raise Bad(f"{name} {said} is not done; {', '.join(known)} are", node.line, name, said)
    return known[said]


def _not_done(node: Node) -> list[Bad]:
    """What a combined commodity asks for beside arrays, spreads and delivery."""
    asked = {name: node.word(name) for name in ("procMeth", "spotMeth", "marginMeth")}
    asked = {name: said.upper() for name, said in asked.items()}
    reasons = []
    if asked["procMeth"] not in ("", "NORMAL"):
        what = "liquidation risk" if asked["procMeth"] == "LIQ" else "another process"
        reasons.append((f"procMeth {asked['procMeth']} ({what}) is not done", "procMeth"))
    if asked["spotMeth"] in ("11", "BASIS") or node.first("basisRates") is not None:
        reasons.append(("delivery by basis is not done", "spotMeth"))
    if "HVAR" in asked["marginMeth"] or "CDS" in asked["marginMeth"]:
        reasons.append((f"marginMeth {asked['marginMeth']} is not done", "marginMeth"))
    if node.flag("binaryArrays"):
        reasons.append(("binary arrays are not read", "binaryArrays"))
    return [Bad(reason, node.line, name, node.word(name)) for reason, name in reasons]


def _rows(node: Node, code: str, base: int, unit: int) -> dict[str, list[Row]]:
    """Tiers, delivery charges and spreads by the figures of a rate."""
    tiers = [
        row
        for name, kind in _TIERS.items()
        for holder in list(node.all(name))[:1]
        for tier in holder.all("tier")
        for row in _tier(tier, code, kind, base)
    ]
    delivery = _delivery(node, code, base)
    return {"tiers": tiers, "delivery": delivery, **charges_of(node, code, base, unit)}


def _tier(node: Node, code: str, kind: str, base: int) -> list[Row]:
    """A tier; a minimum without a rate is none."""
    if not node.word("sPe") and any(
        node.word(name, "0") not in ("", "0") for name in ("tbn", "tne")
    ):
        raise Bad("tiers of tiers are not done", node.line, "tbn", node.word("tbn"))
    rate = None
    if kind == "minimum":
        said = picked(node.all("rate"), [base], node.line, "rate")
        if said is None:
            return []
        rate = said.number("val")
    start, end = node.month("sPe", ""), node.month("ePe", "")
    end = "" if end in _ALWAYS else end
    row = {"number": node.whole("tn"), "start": start, "end": end, "rate": rate}
    return [{"combined_commodity": code, "kind": kind, **row}]


def _delivery(node: Node, code: str, base: int) -> list[Row]:
    """Charges of delivery months; the last of equals counts."""
    months: dict[str, list[Node]] = {}
    for spot in node.all("spotRate"):
        months.setdefault(spot.month("pe"), []).append(spot)
    rows = []
    for month, spots in months.items():
        own = [spot for spot in spots if spot.whole("r", 1) == base][-1:] or spots
        chosen = picked(own, [base], spots[0].line, "spotRate")
        if chosen is not None:
            charges = {
                "consumed": chosen.number("sprd", 0.0),
                "outright": chosen.number("outr", 0.0),
            }
            rows.append({"combined_commodity": code, "month": month, **charges})
    return rows


def joined(commodities: Sequence[Commodity]) -> dict[str, list[Row]]:
    """Rows of all commodities, with the spreads of each numbered after those before it."""
    names = ("tiers", "delivery", "intra", "intra_legs")
    found: dict[str, list[Row]] = {name: [] for name in names}
    for one in commodities:
        before = len(found["intra"])
        for name, rows in one.rows.items():
            numbered = name == "intra_legs"
            found[name] += [
                {**row, "spread": row["spread"] + before} if numbered else row for row in rows
            ]
    return found
