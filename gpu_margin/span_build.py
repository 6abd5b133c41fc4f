"""From the tables of a reader to the codes and arrays of `SpanFile`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from gpu_margin.portfolio import row_offsets
from gpu_margin.span_file import (
    CALL,
    DELTA_UNITS,
    NO_RIGHT,
    PUT,
    Bools,
    Commodities,
    Contracts,
    Floats,
    Ints,
    Slots,
    SpanFile,
    Tiers,
    known_rate,
    padded_grids,
)
from gpu_margin.span_spreads import Places, inter_of, intra_of, without_unlike
from gpu_margin.span_tables import ACCOUNT_TYPES, BY_SCANNING, SpanTables

# A delta this near to a whole number of units is that number: the rest is rounding of decimals.
_NEAR = 1e-3


def build(tables: SpanTables) -> SpanFile:
    """The file's contracts, months, tiers and spreads by code; computes no margin.

    Contracts and combined commodities that cannot be margined are kept and say why: who holds one
    fails by name.
    """
    rates = {(a, b): rate for a, b, rate in tables.rates.iter_rows()}
    commodities = tables.commodities.unique("combined_commodity", keep="first", maintain_order=True)
    commodities = without_unlike(tables, commodities.sort("combined_commodity"))
    codes = commodities["combined_commodity"]
    known = {name: code for code, name in enumerate(codes)}
    contracts, order = _sorted(tables.contracts, known)
    owner = _codes(contracts["combined_commodity"], known)
    months = _slots(tables, contracts, owner, known)
    places = Places(months.commodity, months.month, len(codes), tables.tiers, known)
    currency_of = dict(zip(codes, commodities["currency"], strict=True))
    currencies = tuple(sorted(set(commodities["currency"])))
    decimals = _decimals(contracts, owner, len(codes))
    pair, still = padded_grids(tables.grids)
    made = _Made(contracts, owner, order, currency_of, rates)
    return SpanFile(
        contracts=made.contracts(tables, months, decimals),
        commodities=_commodities(commodities, currencies, decimals, months, places),
        slots=_with_rates(months, tables, known, places, commodities),
        intra=intra_of(tables, places),
        inter=inter_of(tables, places, commodities),
        currencies=currencies,
        rates=rates,
        limit=tables.limit,
        pair=pair,
        still=still,
        facts=tables.facts,
        failures=tables.failures,
    )


def _codes(names: pl.Series, known: Mapping[str, int]) -> Ints:
    """[name] codes, -1 for unknown ones."""
    found = names.replace_strict(known, default=-1, return_dtype=pl.Int64)
    return found.to_numpy()


def _sorted(contracts: pl.DataFrame, known: Mapping[str, int]) -> tuple[pl.DataFrame, Ints]:
    """Contracts in byte order of their ids, and which row of the table each was.

    Of two with one id the first is kept and refused: nobody can say which is meant.
    """
    numbered = contracts.with_row_index("place").with_columns(pl.col("place").cast(pl.Int64))
    twice = pl.col("contract_id").is_duplicated() & (pl.col("refused") == "")
    said = pl.lit("the file has several contracts of this id")
    numbered = numbered.with_columns(
        pl.when(twice).then(said).otherwise(pl.col("refused")).alias("refused")
    )
    orphan = ~pl.col("combined_commodity").is_in(list(known))
    numbered = numbered.filter(~orphan).unique("contract_id", keep="first", maintain_order=True)
    numbered = numbered.sort("contract_id")
    return numbered.drop("place"), numbered["place"].to_numpy()


@dataclass(frozen=True)
class _Months:
    """Slots while the rest of the file is put into them: sorted by commodity and month."""

    commodity: Ints
    month: pl.Series
    contract: Ints


def _slots(
    tables: SpanTables, contracts: pl.DataFrame, owner: Ints, known: Mapping[str, int]
) -> _Months:
    """All months of all commodities: those of contracts, and those that may come by scanning.

    A spread by scanning moves deltas of its legs into the same months of its target.
    """
    held = pl.DataFrame({"commodity": owner, "month": contracts["delta_month"]})
    own: dict[int, set[str]] = {}
    for code, names in held.unique().group_by("commodity"):
        own[int(str(code[0]))] = set(names["month"])
    more = []
    for legs in _scanning_legs(tables, known):
        aim = next((code for code, target in legs if target), -1)
        if aim < 0:
            continue
        months = set().union(*(own.get(code, set()) for code, _ in legs))
        more += [(aim, month) for month in months - own.get(aim, set())]
        own[aim] = months | own.get(aim, set())
    schema = {"commodity": pl.Int64, "month": pl.String}
    extra = pl.DataFrame(more, schema=schema, orient="row")
    every = pl.concat([held.cast(schema), extra]).unique().sort("commodity", "month")  # type: ignore[arg-type]
    place = every.with_row_index("slot").with_columns(pl.col("slot").cast(pl.Int64))
    found = held.cast(schema).join(  # type: ignore[arg-type]
        place, on=["commodity", "month"], how="left", maintain_order="left"
    )
    return _Months(every["commodity"].to_numpy(), every["month"], found["slot"].to_numpy())


def _scanning_legs(tables: SpanTables, known: Mapping[str, int]) -> list[list[tuple[int, bool]]]:
    """Of each spread by scanning the commodities of its legs and which of them is the target."""
    order = tables.inter.with_row_index("spread").filter(pl.col("method") == BY_SCANNING)
    order = order.sort(pl.col("above").not_(), maintain_order=True)
    legs: dict[int, list[tuple[int, bool]]] = {}
    chosen = tables.inter_legs.filter(pl.col("spread").is_in(order["spread"].to_list()))
    for spread, name, target in chosen.select("spread", "combined_commodity", "target").iter_rows():
        if name in known:
            legs.setdefault(spread, []).append((known[name], target))
    return [legs.get(spread, []) for spread in order["spread"]]


def _decimals(contracts: pl.DataFrame, owner: Ints, count: int) -> Ints:
    """[commodity] decimals of the finest array that it has."""
    found = np.full(count, -18, dtype=np.int64)
    np.maximum.at(found, owner, contracts["decimals"].to_numpy())
    found[found == -18] = 0
    return found


@dataclass(frozen=True)
class _Made:
    """Contracts of a file in byte order while their arrays are made.

    `owner` [contract] is their commodity; `order` [contract] their row in the reader's table.
    """

    table: pl.DataFrame
    owner: Ints
    order: Ints
    currency_of: Mapping[str, str]
    rates: Mapping[tuple[str, str], float]

    def contracts(self, tables: SpanTables, months: _Months, decimals: Ints) -> Contracts:
        """All of them, and what each is made of."""
        table = self.table
        money, refused = self._money()
        scaling = table["scaling"].to_numpy()
        delta = _units(table["delta"].to_numpy() * scaling)
        right = table["right"].replace_strict(
            {"C": CALL, "P": PUT}, default=NO_RIGHT, return_dtype=pl.Int64
        )
        premium = table["premium"].to_numpy() & (right != NO_RIGHT).to_numpy()
        price = table["price"].cast(pl.Float64).fill_null(np.nan).to_numpy()
        value = np.where(premium, price * table["multiplier"].to_numpy() * money, 0.0)
        parts = self._parts(tables.splits, delta, table["delta"].to_numpy(), scaling)
        unpriced = pl.Series(np.isnan(value)) & (refused == "")
        said = pl.Series(["its option value is unknown: the file has no price of it"])
        refused = pl.select(pl.when(unpriced).then(said).otherwise(refused)).to_series()
        return Contracts(
            ids=table["contract_id"],
            terms=table,
            slot=months.contract,
            array=self._arrays(tables.arrays, decimals, money),
            delta=delta,
            scaling=scaling,
            right=right.to_numpy(),
            premium=premium,
            value=np.nan_to_num(value),
            refused=refused,
            part_offsets=parts[0],
            part_contract=parts[1],
            part_quantity=parts[2],
            part_delta=parts[3],
        )

    def _money(self) -> tuple[Floats, pl.Series]:
        """[contract] its commodity's money for one of its own, and who is refused."""
        pairs = self.table.select(
            "currency",
            pl.col("combined_commodity").replace_strict(self.currency_of).alias("home"),
        )
        rates = [
            (own, home, known_rate(self.rates, own, home)) for own, home in pairs.unique().rows()
        ]
        schema = {"currency": pl.String, "home": pl.String, "rate": pl.Float64}
        found = pairs.join(
            pl.DataFrame(rates, schema=schema, orient="row"),
            on=["currency", "home"],
            how="left",
            maintain_order="left",
        )
        missing = found["rate"].is_null() & (self.table["refused"] == "")
        said = found.select(
            pl.format("the file has no rate from {} to {}", "currency", "home").alias("said")
        )["said"]
        refused = pl.select(pl.when(missing).then(said).otherwise(self.table["refused"]))
        return found["rate"].fill_null(0.0).to_numpy(), refused.to_series()

    def _arrays(self, arrays: Floats, decimals: Ints, money: Floats) -> Floats:
        """Arrays with the decimals of their commodity, in its currency."""
        more = decimals[self.owner] - self.table["decimals"].to_numpy()
        scale = money * 10.0 ** more.astype(np.float64)
        taken = arrays[self.order]
        return taken if (scale == 1.0).all() else taken * scale[:, None]

    def _parts(
        self, splits: pl.DataFrame, delta: Floats, composite: Floats, scaling: Floats
    ) -> tuple[Ints, Ints, Floats, Floats]:
        """Offsets, contracts, quantities and deltas of what each contract counts as."""
        count = len(self.order)
        place = np.full(max(int(self.order.max(initial=-1)) + 1, 1), -1, dtype=np.int64)
        place[self.order] = np.arange(count)
        contract, leg = (_at(place, splits[name].to_numpy()) for name in ("contract", "leg"))
        usable = (contract >= 0) & (leg >= 0)
        contract, leg = contract[usable], leg[usable]
        ratio = splits["ratio"].to_numpy()[usable]
        replaced = splits["replaced"].to_numpy()[usable]
        plain = np.ones(count, dtype=np.bool_)
        plain[contract[replaced]] = False
        # What stays of a contract whose delta goes elsewhere has none of its own.
        stays = np.where(np.isin(np.arange(count), contract), 0.0, delta)
        own = np.flatnonzero(plain)
        owner = np.concatenate([own, contract])
        part = np.concatenate([own, leg])
        quantity = np.concatenate([np.ones(len(own)), np.where(replaced, ratio, 0.0)])
        moved = composite[contract] * ratio * scaling[leg] * DELTA_UNITS
        brought = np.concatenate([stays[own], np.where(replaced, ratio * delta[leg], moved)])
        by_owner = np.argsort(owner, kind="stable")
        offsets = row_offsets(owner[by_owner], count)
        return offsets, part[by_owner], quantity[by_owner], brought[by_owner]


def _at(place: Ints, rows: Ints) -> Ints:
    """Contracts of rows of the reader's table, -1 for what was not kept."""
    inside = (rows >= 0) & (rows < len(place))
    return np.where(inside, place[np.where(inside, rows, 0)], -1)


def _units(delta: Floats) -> Floats:
    """Deltas in units, whole where the file's decimals make them so."""
    units = delta * DELTA_UNITS
    whole = np.rint(units)
    return np.where(np.abs(units - whole) < _NEAR, whole, units)


def _commodities(
    table: pl.DataFrame,
    currencies: tuple[str, ...],
    decimals: Ints,
    months: _Months,
    places: Places,
) -> Commodities:
    code = {name: place for place, name in enumerate(currencies)}

    def by_account(name: str) -> Floats:
        return table.select(f"{name}_{one}" for one in ACCOUNT_TYPES).to_numpy().astype(float)

    return Commodities(
        codes=table["combined_commodity"],
        currency=_codes(table["currency"], code),
        decimals=decimals,
        grid=table["grid"].to_numpy(),
        limit=table["limit"].to_numpy(),
        wfpr=table["wfpr"].to_numpy(),
        scan_tiers=table["scan_by_month"].to_numpy() | places.has("scan"),
        minimum_greater=table["minimum_greater"].to_numpy(),
        minimum=_minimum(table, places),
        factor=by_account("factor"),
        ratio=by_account("ratio"),
        slots=row_offsets(months.commodity, len(table)),
        refused=table["refused"],
    )


def _minimum(table: pl.DataFrame, places: Places) -> Tiers:
    """Tiers of short option minima; all months at one rate where a commodity has none."""
    tiers = places.tiers("minimum")
    count = np.diff(tiers.start)
    bare = np.flatnonzero(count == 0)
    owner = np.concatenate([np.repeat(np.arange(len(count)), count), bare])
    order = np.argsort(owner, kind="stable")

    def both(own: Ints, whole: Ints) -> Ints:
        return np.concatenate([own, whole])[order]

    rate = table["minimum_rate"].cast(pl.Float64).to_numpy()[bare]
    return Tiers(
        start=row_offsets(owner[order], len(count)),
        number=both(tiers.number, np.zeros(len(bare), dtype=np.int64)),
        first=both(tiers.first, places.start[bare]),
        last=both(tiers.last, places.start[bare + 1]),
        rate=np.concatenate([tiers.rate, rate])[order],
    )


def _with_rates(
    months: _Months,
    tables: SpanTables,
    known: Mapping[str, int],
    places: Places,
    commodities: pl.DataFrame,
) -> Slots:
    """Slots with their delivery charges, price scan ranges and scan codes."""
    keys = pl.DataFrame({"commodity": months.commodity, "month": months.month})

    def of(table: pl.DataFrame, name: str, absent: float) -> Floats:
        own = table.select(
            pl.col("combined_commodity").replace_strict(known, default=-1).alias("commodity"),
            "month",
            pl.col(name).alias("figure"),
        ).cast({"commodity": pl.Int64})
        own = own.unique(["commodity", "month"], keep="last", maintain_order=True)
        found = keys.join(own, on=["commodity", "month"], how="left", maintain_order="left")
        return found["figure"].cast(pl.Float64).fill_null(absent).to_numpy()

    return Slots(
        commodity=months.commodity,
        month=months.month,
        scan=_scan_codes(months, places, commodities["scan_by_month"].to_numpy()),
        consumed=of(tables.delivery, "consumed", 0.0),
        outright=of(tables.delivery, "outright", 0.0),
        up=of(tables.ranges, "up", np.nan),
        down=of(tables.ranges, "down", np.nan),
    )


def _scan_codes(months: _Months, places: Places, by_month: Bools) -> Ints:
    """[slot] which months are scanned together: the first tier that has it, or all that none has.

    The codes of a commodity are from 0 on; those of no tier come after the last tier.
    """
    tiers = places.tiers("scan")
    count = np.diff(tiers.start)
    found = count[months.commodity]
    owner = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(owner)) - tiers.start[owner]
    for tier in range(len(owner) - 1, -1, -1):
        found[tiers.first[tier] : tiers.last[tier]] = number[tier]
    alone = np.arange(len(found)) - places.start[months.commodity]
    return np.where(by_month[months.commodity], alone, found)
