"""Months, tiers and spreads of a SPAN file as ranges of slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from gpu_margin.portfolio import row_offsets
from gpu_margin.span_file import Bools, Inter, Intra, Ints, Tiers, known_rate
from gpu_margin.span_tables import BY_LEG_TIERS, BY_SCANNING, BY_TIERS, SpanTables

# Comes after every day or week code: a bound without a day has all days of its month.
_END = "~"
# A range that has no slot.
_NOWHERE = (0, 0)

_Range = tuple[int, int]


class Places:
    """Where the months and tiers of commodities lie among the slots.

    `start` [commodity + 1] are the offsets of their slots.
    """

    def __init__(
        self,
        commodity: Ints,
        month: pl.Series,
        count: int,
        tiers: pl.DataFrame,
        known: Mapping[str, int],
    ) -> None:
        self.known = known
        self.start = row_offsets(commodity, count)
        self._months = month.to_numpy().astype(str)
        self._tiers = {
            kind[0]: self._ranges(own) for kind, own in tiers.group_by("kind", maintain_order=True)
        }
        self._numbers = {kind: _numbered(own) for kind, own in self._tiers.items()}

    def _ranges(self, own: pl.DataFrame) -> Tiers:
        rows = []
        for name, number, start, end, rate in own.select(
            "combined_commodity", "number", "start", "end", "rate"
        ).iter_rows():
            if name in self.known:
                code = self.known[name]
                rows.append((code, number, *self.between(code, start, end), rate or 0.0))
        rows.sort(key=lambda row: row[0])
        codes, numbers, first, last, rates = (
            zip(*rows, strict=True) if rows else ((), (), (), (), ())
        )
        return Tiers(
            start=row_offsets(np.array(codes, dtype=np.int64), len(self.start) - 1),
            number=np.array(numbers, dtype=np.int64),
            first=np.array(first, dtype=np.int64),
            last=np.array(last, dtype=np.int64),
            rate=np.array(rates, dtype=np.float64),
        )

    def whole(self, code: int) -> _Range:
        """All slots of a commodity."""
        return int(self.start[code]), int(self.start[code + 1])

    def between(self, code: int, start: str, end: str) -> _Range:
        """The slots of a commodity from one month to another, both included."""
        low, high = self.whole(code)
        own = self._months[low:high]
        first = np.searchsorted(own, start) if start else 0
        bound = end + _END if len(end) <= 6 else end
        last = np.searchsorted(own, bound, "right") if end else high - low
        return low + int(first), low + max(int(last), int(first))

    def month(self, code: int, month: str) -> _Range:
        """The slot of a month of a commodity, if it has it."""
        low, high = self.whole(code)
        found = low + int(np.searchsorted(self._months[low:high], month))
        there = found < high and self._months[found] == month
        return (found, found + 1) if there else _NOWHERE

    def has(self, kind: str) -> Bools:
        """[commodity] whether it has tiers of a kind."""
        return np.diff(self.tiers(kind).start) > 0

    def tiers(self, kind: str) -> Tiers:
        """All tiers of a kind."""
        nothing = np.zeros(0, dtype=np.int64)
        none = Tiers(np.zeros_like(self.start), nothing, nothing, nothing, np.zeros(0))
        return self._tiers.get(kind, none)

    def numbers(self, kind: str, code: int) -> dict[int, _Range]:
        """The ranges of a commodity's tiers of a kind by their numbers; the first of equals."""
        return self._numbers.get(kind, {}).get(code, {})

    def single_months(self, code: int) -> dict[str, _Range]:
        """The slots of a commodity by their months."""
        low, high = self.whole(code)
        return {str(self._months[slot]): (slot, slot + 1) for slot in range(low, high)}


def _numbered(tiers: Tiers) -> dict[int, dict[int, _Range]]:
    found: dict[int, dict[int, _Range]] = {}
    owner = np.repeat(np.arange(len(tiers.start) - 1), np.diff(tiers.start))
    for code, number, first, last in zip(
        owner.tolist(),
        tiers.number.tolist(),
        tiers.first.tolist(),
        tiers.last.tolist(),
        strict=True,
    ):
        found.setdefault(code, {}).setdefault(number, (first, last))
    return found


def without_unlike(tables: SpanTables, commodities: pl.DataFrame) -> pl.DataFrame:
    """Commodities, refused where a spread by scanning joins them to ones that do not add up.

    They have other scenarios, or are in a currency that the file has no rate for.
    """
    scanning = tables.inter.with_row_index("spread").filter(pl.col("method") == BY_SCANNING)
    legs = tables.inter_legs.filter(pl.col("spread").is_in(scanning["spread"].to_list()))
    about = commodities.select("combined_commodity", "grid", "currency")
    legs = legs.join(about, on="combined_commodity")
    unlike = set(legs.filter(pl.col("grid").n_unique().over("spread") > 1)["spread"])
    rates = {(source, target): rate for source, target, rate in tables.rates.iter_rows()}
    homes = legs.filter("target").select("spread", pl.col("currency").alias("home"))
    pairs = legs.join(homes, on="spread").select("spread", "currency", "home").unique()
    lacking = {spread for spread, *pair in pairs.iter_rows() if known_rate(rates, *pair) is None}
    for spreads, said in (
        (unlike, "commodities of other scenarios, which is not done"),
        (lacking, "commodities in currencies that the file has no rate for"),
    ):
        bad = legs.filter(pl.col("spread").is_in(list(spreads)))["combined_commodity"]
        own = pl.col("combined_commodity").is_in(bad.to_list()) & (pl.col("refused") == "")
        reason = pl.lit(f"a spread by scanning joins it to {said}")
        refused = pl.when(own).then(reason).otherwise(pl.col("refused")).alias("refused")
        commodities = commodities.with_columns(refused)
    return commodities


def intra_of(tables: SpanTables, places: Places) -> Intra:
    """Spreads within commodities; those that no position can form are left out."""
    legs: dict[int, list[tuple[int, int, float, int]]] = {}
    owners = tables.intra["combined_commodity"].to_list()
    for spread, month, tier, ratio, side in tables.intra_legs.select(
        "spread", "month", "tier", "ratio", "side"
    ).iter_rows():
        code = places.known.get(owners[spread], -1)
        if code < 0:
            continue
        own = places.month(code, month) if month else places.numbers("intra", code).get(tier)
        legs.setdefault(spread, []).append((*(own or _NOWHERE), ratio, side))
    rows = []
    for spread, (name, rate, weighted, said) in enumerate(
        tables.intra.select("combined_commodity", "rate", "weighted", "name").iter_rows()
    ):
        own_legs = legs.get(spread, [])
        if own_legs and all(leg[0] < leg[1] and leg[2] > 0 for leg in own_legs):
            rows.append((places.known[name], rate, weighted, said, own_legs))
    rows.sort(key=lambda row: row[0])
    flat = [leg for row in rows for leg in row[4]]
    return Intra(
        start=row_offsets(
            np.array([row[0] for row in rows], dtype=np.int64), len(places.start) - 1
        ),
        rate=np.array([row[1] for row in rows], dtype=np.float64),
        weighted=np.array([row[2] for row in rows], dtype=np.bool_),
        name=pl.Series([row[3] for row in rows], dtype=pl.String),
        leg_offsets=_offsets([len(row[4]) for row in rows]),
        leg_first=np.array([leg[0] for leg in flat], dtype=np.int64),
        leg_last=np.array([leg[1] for leg in flat], dtype=np.int64),
        leg_ratio=np.array([leg[2] for leg in flat], dtype=np.float64),
        leg_side=np.array([leg[3] for leg in flat], dtype=np.int64),
    )


def _offsets(sizes: list[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@dataclass(frozen=True)
class _Leg:
    """A leg of a spread between commodities, its commodity by code and -1 where it is unknown."""

    commodity: int
    ratio: float
    side: int
    tier: int
    rate: float
    required: bool
    target: bool


@dataclass(frozen=True)
class _Spread:
    """A spread that can be formed: the slots of its legs, and what is a place among them."""

    method: int
    flat: bool
    above: bool
    least: int
    name: str
    target: int
    legs: list[_Leg]
    ranges: list[_Range]
    tiers: tuple[Ints, Ints] | None


def inter_of(tables: SpanTables, places: Places, commodities: pl.DataFrame) -> Inter:
    """Spreads between commodities in the order of forming; what cannot be formed is left out."""
    by_month = {
        places.known[name]
        for name, each in commodities.select("combined_commodity", "inter_by_month").iter_rows()
        if each
    }
    legs: dict[int, list[_Leg]] = {}
    for spread, name, *rest in tables.inter_legs.select(
        "spread", "combined_commodity", "ratio", "side", "tier", "rate", "required", "target"
    ).iter_rows():
        legs.setdefault(spread, []).append(_Leg(places.known.get(name, -1), *rest))
    order = tables.inter.with_row_index("spread").sort(pl.col("above").not_(), maintain_order=True)
    rows = []
    for spread, method, flat, above, least, name in order.select(
        "spread", "method", "flat", "above", "least", "name"
    ).iter_rows():
        made = _formable(method, legs.get(spread, []), places, by_month)
        if made is not None:
            rows.append(_Spread(method, flat, above, least, name, *made))
    every = [leg for row in rows for leg in row.legs]
    ranges = np.array([one for row in rows for one in row.ranges], dtype=np.int64).reshape(-1, 2)
    return Inter(
        method=np.array([row.method for row in rows], dtype=np.int64),
        flat=np.array([row.flat for row in rows], dtype=np.bool_),
        above=np.array([row.above for row in rows], dtype=np.bool_),
        least=np.array([row.least for row in rows], dtype=np.int64),
        target=np.array([row.target for row in rows], dtype=np.int64),
        name=pl.Series([row.name for row in rows], dtype=pl.String),
        leg_offsets=_offsets([len(row.legs) for row in rows]),
        leg_commodity=np.array([leg.commodity for leg in every], dtype=np.int64),
        leg_ratio=np.array([leg.ratio for leg in every], dtype=np.float64),
        leg_side=np.array([leg.side for leg in every], dtype=np.int64),
        leg_rate=np.array([leg.rate for leg in every], dtype=np.float64),
        leg_required=np.array([leg.required for leg in every], dtype=np.bool_),
        leg_first=ranges[:, 0].copy(),
        leg_last=ranges[:, 1].copy(),
        leg_whole=np.array(
            [row.method != BY_LEG_TIERS or not leg.tier for row in rows for leg in row.legs],
            dtype=np.bool_,
        ),
        tiers={place: row.tiers for place, row in enumerate(rows) if row.tiers is not None},
    )


_Formable = tuple[int, list[_Leg], list[_Range], tuple[Ints, Ints] | None]


def _formable(
    method: int, legs: list[_Leg], places: Places, by_month: set[int]
) -> _Formable | None:
    """Target, legs and their ranges, tiers of a spread; None where nobody can form it."""
    target = -1
    if method == BY_SCANNING:
        if any(leg.required and leg.commodity < 0 for leg in legs):
            return None
        legs = [leg for leg in legs if leg.commodity >= 0]
        target = next((place for place, leg in enumerate(legs) if leg.target), -1)
    if not legs or any(leg.commodity < 0 or not leg.ratio > 0 for leg in legs):
        return None
    if method == BY_SCANNING and target < 0:
        return None
    ranges = []
    for leg in legs:
        found: _Range | None = places.whole(leg.commodity)
        if method == BY_LEG_TIERS and leg.tier:
            numbered = leg.commodity not in by_month
            numbers = places.numbers("inter", leg.commodity) if numbered else {}
            found = numbers.get(leg.tier)
        if found is None:
            return None
        ranges.append(found)
    tiers = None
    if method == BY_TIERS:
        tiers = _tier_by_tier([leg.commodity for leg in legs], places, by_month)
        if tiers is None:
            return None
    return target, legs, ranges, tiers


def _tier_by_tier(codes: list[int], places: Places, by_month: set[int]) -> tuple[Ints, Ints] | None:
    """Ranges [tier, leg] of the tiers that all legs have, by number, or by month."""
    own: list[dict[tuple[int, str], _Range]] = []
    for code in codes:
        if code in by_month:
            months = places.single_months(code)
            own.append({(0, month): found for month, found in months.items()})
        else:
            numbers = places.numbers("inter", code)
            own.append({(number, ""): found for number, found in numbers.items()})
    shared = set(own[0]).intersection(*own[1:])
    if not shared:
        return None
    ranges = np.array([[one[key] for one in own] for key in sorted(shared)], dtype=np.int64)
    return ranges[:, :, 0], ranges[:, :, 1]
