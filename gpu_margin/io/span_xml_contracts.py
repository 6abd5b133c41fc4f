"""Contracts of a SPAN XML file as columns: who they are, what they are worth, their arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from gpu_margin.failures import Failure
from gpu_margin.io.span_xml_arrays import NONE, UNCLEAR, any_different, arrays_of, rated
from gpu_margin.io.span_xml_commodities import Commodities
from gpu_margin.io.span_xml_families import (
    BROKEN,
    Families,
    Placed,
    Singles,
    gathered,
    months,
    underlying,
)
from gpu_margin.io.span_xml_faults import Faults
from gpu_margin.io.span_xml_numbers import Floats
from gpu_margin.io.span_xml_rates import DIFFERENT
from gpu_margin.io.span_xml_tree import Ints, Tree
from gpu_margin.span_tables import CONTRACTS

# Kinds of options whose delta is held in the month of what they are on.
_ON_OTHERS = ("OOF", "OOC")


@dataclass(frozen=True)
class Contracts:
    """Contracts that can be read, in the order of the file.

    `table` is of the schema `contracts`, `arrays` [contract, point] theirs. `ranges` [contract]
    is the element of its price scan range, below 0 for none; `without` is how many contracts of the
    file have no array, or no combined commodity.
    """

    table: pl.DataFrame
    arrays: Floats
    placed: Placed
    ranges: Ints
    failures: list[Failure]
    without: int


@dataclass(frozen=True)
class _Owned:
    """[family] code of its commodity, figures of its link, -1 for families of no commodity."""

    commodity: Ints
    scaling: Floats
    codes: list[str]


def read_contracts(
    tree: Tree,
    families: Families,
    every: Placed,
    singles: Singles,
    commodities: Commodities,
    source: str,
) -> Contracts:
    """The contracts of families that belong to a combined commodity and have a risk array."""
    owned = _owned(families, commodities)
    own = every[owned.commodity[every.family] >= 0]
    commodity = owned.commodity[own.family]
    holders, ranges = _rated(tree, own, commodity, commodities)
    without = int(len(every) - np.sum(holders != NONE))
    unclear = Faults(tree, own.elements, source)
    unclear.drop(holders == UNCLEAR, "no risk array of the rate of its combined commodity", "ra")
    there = holders >= 0
    own, commodity, holders, ranges = own[there], commodity[there], holders[there], ranges[there]
    faults = Faults(tree, own.elements, source)
    columns = _columns(tree, own, families, singles, faults)
    columns |= _figures(tree, own, holders, owned.scaling[own.family], families, faults)
    points = np.array([len(grid) for grid in commodities.grids.found], np.int64)
    grid = np.array([one.grid for one in commodities.by_code.values()], np.int64)
    arrays = arrays_of(tree, holders, points[grid[commodity]], int(points.max()))
    faults.drop(arrays.fault >= 0, "a risk array's value is not a number", "a", arrays.fault)
    wrong = arrays.count != points[grid[commodity]]
    faults.drop(wrong, "a risk array has not as many values as there are scan points", "ra")
    good = faults.good
    money = [one.currency for one in commodities.by_code.values()]
    columns |= {
        "combined_commodity": gathered(owned.codes, commodity),
        "currency": _currency(families, own, gathered(money, commodity)),
        "decimals": pl.Series(arrays.decimals, dtype=pl.Int64),
        "row": pl.Series(tree.lines(own.elements), dtype=pl.Int64),
    }
    failures = unclear.failures + faults.failures
    table = _named(pl.DataFrame(columns).filter(pl.Series(good)), failures, source)
    return Contracts(table, arrays.values[good], own[good], ranges[good], failures, without)


def _owned(families: Families, commodities: Commodities) -> _Owned:
    codes = list(commodities.by_code)
    place = {code: number for number, code in enumerate(codes)}
    links = families.links
    return _Owned(
        np.array([-1 if one is None else place[one.commodity] for one in links], np.int64),
        np.array([1.0 if one is None else one.scaling for one in links]),
        codes,
    )


def _rated(tree: Tree, own: Placed, commodity: Ints, commodities: Commodities) -> tuple[Ints, Ints]:
    """[contract] its risk array and the price scan range of its home, by the rates that count.

    Where account types have different ones, the combined commodity is refused.
    """
    bases = [one.bases for one in commodities.by_code.values()]
    homes, place = np.unique(own.home, return_inverse=True)
    owner = np.zeros(len(homes), np.int64)
    owner[place] = commodity
    chosen = []
    for number in range(max(map(len, bases), default=1)):
        base = np.array([one[min(number, len(one) - 1)] for one in bases], np.int64)
        chosen.append(
            (
                rated(tree, own.elements, "ra", base[commodity]),
                rated(tree, homes, "scanRate", base[owner]),
            )
        )
    for other in chosen[1:]:
        different = any_different(chosen[0][0], other[0], commodity, len(bases))
        different |= any_different(chosen[0][1], other[1], owner, len(bases))
        for code, one in zip(commodities.by_code, different.tolist(), strict=True):
            if one:
                commodities.refuse(code, DIFFERENT)
    return chosen[0][0], chosen[0][1][place]


def _columns(
    tree: Tree, own: Placed, families: Families, singles: Singles, faults: Faults
) -> dict[str, pl.Series]:
    """Who contracts are: exchange, product, type, months, right."""
    homes, first, place = np.unique(own.home, return_index=True, return_inverse=True)
    option, family = own.option, own.family
    month = months(tree, homes)
    at = tree.first(homes, "pe")[place]
    broken = np.array([one == BROKEN for one in month], np.bool_)[place]
    faults.drop(broken, "pe is not a month: CCYYMM or CCYYMMDD", "pe", at)
    owner, of_option = family[first].tolist(), option[first].tolist()
    exchanges = [families.exchange[one] for one in owner]
    future, optional, delta = list(month), [""] * len(homes), list(month)
    for number, key in enumerate(underlying(tree, homes, exchanges)):
        if not of_option[number]:
            continue
        optional[number], future[number] = month[number], ""
        on = singles.month(key) if families.kind[owner[number]] in _ON_OTHERS else None
        if on is not None and on != BROKEN:
            future[number] = delta[number] = on
    rights = tree.first(own.elements, "o")
    said = pl.Series(tree.said(np.where(option, rights, -1)), dtype=pl.String).str.slice(0, 1)
    no_right = option & ~said.is_in(["C", "P"]).to_numpy()
    faults.drop(no_right, "o is neither C nor P", "o", rights)
    return {
        "exchange": gathered(families.exchange, family),
        "product": gathered(families.code, family),
        "type": gathered(families.kind, family),
        "future_month": gathered(future, place),
        "option_month": gathered(optional, place),
        "delta_month": gathered(delta, place),
        "right": said,
    }


def _figures(
    tree: Tree,
    own: Placed,
    holders: Ints,
    linked: Floats,
    families: Families,
    faults: Faults,
) -> dict[str, pl.Series]:
    """What contracts are worth: strike, price, multiplier, delta and what it is scaled by."""

    def of(parents: Ints, name: str) -> Ints:
        homes, place = np.unique(parents, return_inverse=True)
        return tree.first(homes, name)[place]

    option = own.option
    strike = faults.numbers("k", np.where(option, tree.first(own.elements, "k"), -1))
    faults.drop(option & strike.absent, "an option without a strike", "k")
    price = faults.numbers("p", tree.first(own.elements, "p"))
    held = tree.first(holders, "d")
    delta = faults.numbers("d", held, tree.first(own.elements, "d"))
    faults.drop(delta.absent, "no delta: neither ra/d nor d", "d")
    scale = tree.first(own.elements, "sc"), of(own.home, "sc")
    scaling = faults.numbers("sc", *scale)
    scaled = np.where(scaling.absent, 1.0, scaling.value) * linked
    faults.drop(~(scaled > 0), "delta scaling is not above 0", "sc", scale[0])
    family = tree.first(families.elements, "cvf")[own.family]
    times = faults.numbers("cvf", tree.first(own.elements, "cvf"), of(own.home, "cvf"), family)
    premium = np.array(families.premium, np.bool_)[own.family] & option
    return {
        "strike": pl.Series(strike.value, nan_to_null=True),
        "price": pl.Series(price.value, nan_to_null=True),
        "multiplier": pl.Series(np.where(times.absent, 1.0, times.value)),
        "delta": pl.Series(delta.value),
        "scaling": pl.Series(scaled),
        "premium": pl.Series(premium),
    }


def _currency(families: Families, own: Placed, of_commodity: pl.Series) -> pl.Series:
    """The family's currency, else that of the combined commodity."""
    told = gathered(families.currency, own.family)
    return pl.select(pl.when(told == "").then(of_commodity).otherwise(told)).to_series()


def _named(columns: pl.DataFrame, failures: list[Failure], source: str) -> pl.DataFrame:
    """The table, with ids; contracts that have one id are refused, for nobody can tell them."""
    strikes, place = np.unique(columns["strike"].to_numpy(), return_inverse=True)
    level = gathered([strike_text(one) for one in strikes.tolist()], place)
    parts = ("exchange", "product", "type", "future_month", "option_month", "right", "level")
    said = [pl.when(pl.col(name) != "").then(pl.col(name)) for name in parts]
    contract_id = pl.concat_str(said, separator=":", ignore_nulls=True).alias("contract_id")
    named = columns.with_columns(level.alias("level")).with_columns(contract_id)
    twice = named["contract_id"].is_duplicated()
    for name, row in named.filter(twice).select("contract_id", "row").iter_rows():
        failures.append(Failure("several contracts have this id", source, row, "cId", name))
    reason = pl.when(twice).then(pl.lit("several contracts have this id")).otherwise(pl.lit(""))
    return named.with_columns(reason.alias("refused")).select(CONTRACTS.names()).cast(CONTRACTS)


def strike_text(strike: float) -> str:
    """A strike as people write it: no noughts at the end. NaN is none."""
    if strike != strike:
        return ""
    if strike == int(strike):
        return str(int(strike))
    return f"{strike:.10f}".rstrip("0")


def ranges_of(
    tree: Tree, contracts: Contracts, commodities: Commodities, source: str
) -> tuple[pl.DataFrame, list[Failure]]:
    """Rows of `ranges`: of a month the range of its future, else that of its first option.

    A range is money of one contract; here it is of one delta. Without a range down it is that up.
    """
    table = contracts.table
    failures: list[Failure] = []
    up, down, percent = _ranges(tree, contracts, commodities, failures, source)
    scaling = table["scaling"].to_numpy()
    frame = table.select(
        "combined_commodity",
        pl.col("delta_month").alias("month"),
        pl.Series("up", up / scaling),
        pl.Series("down", np.where(down == 0, up, down) / scaling),
        (pl.col("type") != "FUT").alias("rank"),
        "product",
        "type",
        "option_month",
    ).filter(pl.Series(up != 0))
    keys = ("rank", "product", "type", "option_month")
    frame = frame.sort("combined_commodity", "month", *keys, maintain_order=True)
    frame = frame.unique(["combined_commodity", "month"], keep="first", maintain_order=True)
    _refuse_percent(table, percent, commodities)
    return frame.select("combined_commodity", "month", "up", "down"), failures


def _ranges(
    tree: Tree,
    contracts: Contracts,
    commodities: Commodities,
    failures: list[Failure],
    source: str,
) -> tuple[Floats, Floats, Ints]:
    """[contract] the ranges up and down, 0 for none, and where only one in percent is told."""
    holders, place = np.unique(contracts.ranges, return_inverse=True)
    found = holders >= 0
    own = np.where(found, holders, 0)
    owner = np.zeros(len(holders), np.int64)
    owner[place] = np.arange(len(place))
    faults = Faults(tree, own, source)
    both = []
    for name in ("priceScan", "priceScanDown"):
        numbers = faults.numbers(name, np.where(found, tree.first(own, name), -1))
        both.append(np.where(found & (numbers.value > 0), numbers.value, 0.0))
        faults.drop(numbers.value < 0, f"{name} is below 0", name)
    shares = np.where(found, tree.first(own, "priceScanPct"), -1) >= 0
    codes = contracts.table["combined_commodity"]
    for which in np.flatnonzero(~faults.good | (holders == UNCLEAR)).tolist():
        commodities.refuse(codes[int(owner[which])], "a price scan range cannot be used")
    failures += faults.failures
    up, down = both
    return up[place], down[place], np.flatnonzero((shares & (up == 0))[place])


def _refuse_percent(table: pl.DataFrame, percent: Ints, commodities: Commodities) -> None:
    """Ranges in percent matter where price risk is capped at them, and are not done."""
    for code in table["combined_commodity"][percent].unique():
        if commodities.by_code[code].wfpr != 1:
            commodities.refuse(code, "price scan ranges in percent (priceScanPct) are not done")
