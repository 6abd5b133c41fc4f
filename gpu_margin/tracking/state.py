"""What a tracker knows: accounts, positions, collateral, and the market they are in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.covers import cover_of
from gpu_margin.failures import InputError
from gpu_margin.holdings import Assets, Holdings
from gpu_margin.io import rules
from gpu_margin.io.market_tables import LoadedMarket
from gpu_margin.io.tables import Source, Table
from gpu_margin.io.trade_tables import codes_of
from gpu_margin.loading import Loaded
from gpu_margin.portfolio import Portfolio, Rows, add_up, entry_rows, rows_at
from gpu_margin.tracking.inputs import Inputs, cash_alone, read_inputs, with_cash
from gpu_margin.tracking.ledger import Ledger
from gpu_margin.tracking.marks import NO_MARKS, Marks
from gpu_margin.tracking.members import Members

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Their gains are paid in cash, day by day and fill by fill; what is not among them is paid for.
SETTLED = ("future", "perpetual")
_SIGNED = "future"


@dataclass(frozen=True)
class Contracts:
    """How instruments are paid for, [instrument].

    `settled` are futures and perpetuals; `signed` may have a negative price. `unit` is what one
    unit of price of one contract is, and `rate` one unit of a fee, in units of the cash asset
    `asset` (its code): cash in the instrument's currency, or, where there is no such asset, in the
    margin currency. `codes` of the ids of valid instruments.
    """

    codes: Mapping[str, int]
    settled: Bools
    signed: Bools
    unit: Floats
    rate: Floats
    asset: Ints


@dataclass
class State:
    """Everything that changes as fills and marks come in, and what it rests on.

    `loaded` is kept for its configuration and its market, which is the one at the `marks` in force.
    `factors` are the codes of the history's, and `forward` [instrument] the options whose forward
    is their own, from the table or a mark, and not their factor's last price. The ledgers have a
    row for every set of the `members`: instruments of `positions`, assets of `holdings`. Per set:
    `listed` where it has had a position row, `good` where one that did not fail, `lost` and
    `lost_collateral` how many failed. `with_collateral` is False where the inputs say nothing of
    collateral: cash is booked all the same, but no standing follows from it.
    """

    loaded: Loaded
    inputs: Inputs
    marks: Marks
    factors: Mapping[str, int]
    forward: Bools
    assets: Assets
    contracts: Contracts
    members: Members
    positions: Ledger
    holdings: Ledger
    listed: Bools
    good: Bools
    lost: Ints
    lost_collateral: Ints
    with_collateral: bool

    def open(self, accounts: list[str], names: list[str]) -> None:
        """Open netting sets that are not there yet."""
        count = self.members.open(accounts, names)
        if count:
            self.positions.add_rows(count)
            self.holdings.add_rows(count)
            no, none = np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=np.int64)
            self.listed, self.good = np.append(self.listed, no), np.append(self.good, no)
            self.lost = np.append(self.lost, none)
            self.lost_collateral = np.append(self.lost_collateral, none)

    def set_sizes(self, sizes: pl.DataFrame) -> None:
        """What positions were added up from: (account_id, netting_set, instrument_id, size)."""
        place = self._places(sizes)
        known = place >= 0
        self.positions.size[place[known]] = sizes["size"].to_numpy()[known]

    def add_cash(self, cash: pl.DataFrame) -> None:
        """Cash that is no collateral: (account_id, netting_set, asset, amount)."""
        accounts, names = cash["account_id"].to_list(), cash["netting_set"].to_list()
        self.open(accounts, names)
        sets = self.members.find(accounts, names)
        place = self.holdings.places(sets, codes_of(cash["asset"], self.assets.ids))
        self.holdings.value[place] = cash["amount"].to_numpy()

    def instrument_codes(self) -> pl.DataFrame:
        """instrument_id, code (null where it failed) and signed of all ids in the table."""
        ids = rules.text_columns(self.inputs.market["instruments"].frame, ["instrument_id"])
        valid = pl.DataFrame(
            {"instrument_id": list(self.contracts.codes), "signed": self.contracts.signed}
        ).with_row_index("code")
        every = ids.select(pl.col("instrument_id").drop_nulls().unique(maintain_order=True))
        return every.join(valid, on="instrument_id", how="left").select(
            "instrument_id", pl.col("code").cast(pl.Int64), "signed"
        )

    def _places(self, keys: pl.DataFrame) -> Ints:
        """[row] where in the ledger a position stands, -1 where its set or instrument is gone."""
        found = self.members.find(keys["account_id"].to_list(), keys["netting_set"].to_list())
        code = codes_of(keys["instrument_id"], self.loaded.market.instruments.ids)
        fine = (found >= 0) & (code >= 0)
        place = np.full(len(keys), -1, dtype=np.int64)
        place[fine] = self.positions.places(found[fine], code[fine])
        return place


def state_of(loaded: Loaded, frames: Mapping[str, Source]) -> State:
    """The state of what was loaded; `frames` are those tables that were loaded from memory.

    Raises `InputError` where the inputs have changed or no instrument is valid.
    """
    inputs = read_inputs(loaded, frames)
    marks = NO_MARKS if loaded.marks is None else loaded.marks
    market = inputs.market_at(loaded, marks)
    if not len(market.market.instruments):
        raise InputError("nothing to track: no instrument is valid; see the failures")
    with_collateral = loaded.holdings is not None and loaded.assets is not None
    if with_collateral and loaded.assets is not None:
        inputs, assets = with_cash(inputs, market, loaded.assets)
    else:
        assets = cash_alone(market)
    loaded = replace(loaded, market=market.market)
    return _assembled(loaded, inputs, Marks.of(marks), market, assets)


def contracts_of(instruments: Table, market: LoadedMarket, assets: Assets) -> Contracts:
    """How the valid instruments are paid for."""
    ids, scale = market.market.instruments.ids, market.market.instruments.scale
    texts = rules.text_columns(instruments.good, ["instrument_id", "kind", "currency"])
    frame = rules.number_columns(texts, ["multiplier"]).with_columns(
        pl.col("kind").str.strip_chars().str.to_lowercase(), pl.col("multiplier").fill_null(1.0)
    )
    cash = pl.DataFrame({"currency": assets.ids, "cash": assets.cash}).with_row_index("asset")
    found = (
        pl.DataFrame({"instrument_id": ids})
        .join(frame, on="instrument_id", how="left", maintain_order="left")
        .join(market.rates, on="currency", how="left", maintain_order="left")
        .join(cash.filter("cash"), on="currency", how="left", maintain_order="left")
    )
    own = found["asset"].is_not_null().to_numpy()
    fallback = codes_of(pl.Series([market.market.currency]), assets.ids)[0]
    return Contracts(
        codes={name: code for code, name in enumerate(ids.to_list())},
        settled=found["kind"].is_in(SETTLED).to_numpy(),
        signed=(found["kind"] == _SIGNED).to_numpy(),
        unit=np.where(own, found["multiplier"].to_numpy(), scale),
        rate=np.where(own, 1.0, found["fx"].to_numpy()),
        asset=found["asset"].cast(pl.Int64).fill_null(int(fallback)).to_numpy().copy(),
    )


def _forward(table: Table, loaded: Loaded, marks: Marks) -> Bools:
    """[instrument] options whose forward is their own; their rows are valid."""
    own = loaded.market.instruments
    frame = rules.text_columns(table.good, ["instrument_id"])
    given = rules.number_columns(frame, ["forward"]).filter(pl.col("forward").is_not_null())
    marked = {key[0] for key in marks if key[2] == "forward"}
    ids = {*given["instrument_id"].to_list(), *marked}
    found = np.fromiter((name in ids for name in own.ids.to_list()), dtype=np.bool_, count=len(own))
    return own.option & found


def _holdings(loaded: Loaded, assets: Assets) -> Holdings:
    """The holdings in the codes of the assets, which may have one more than those loaded."""
    if loaded.holdings is None or loaded.assets is None:
        names, none = pl.Series([], dtype=pl.String), np.zeros(0, dtype=np.int64)
        return Holdings(names, names, Rows(np.zeros(1, dtype=np.int64), none, np.zeros(0)), none)
    code, rows = codes_of(loaded.assets.ids, assets.ids), loaded.holdings.rows
    return replace(loaded.holdings, rows=Rows(rows.offsets, code[rows.column], rows.value))


def _assembled(
    loaded: Loaded,
    inputs: Inputs,
    marks: Marks,
    market: LoadedMarket,
    assets: Assets,
) -> State:
    portfolio, holdings = loaded.portfolio, _holdings(loaded, assets)
    cover = cover_of(portfolio, holdings)
    held = cover.position >= 0
    good, bad = (np.append(count, 0)[cover.position] for count in (portfolio.good, portfolio.bad))
    sizes = _sizes(portfolio)
    netted = portfolio.netted
    own = rows_at(Rows(netted.offsets, netted.column, sizes), cover.position)
    return State(
        loaded=loaded,
        inputs=inputs,
        marks=marks,
        factors={name: code for code, name in enumerate(market.market.history.factors)},
        forward=_forward(inputs.market["instruments"], loaded, marks),
        assets=assets,
        contracts=contracts_of(inputs.market["instruments"], market, assets),
        members=Members(cover.accounts.to_list(), cover.owner, cover.sets.to_list()),
        positions=Ledger(rows_at(netted, cover.position), own.value),
        holdings=Ledger(rows_at(holdings.rows, cover.holding)),
        listed=held,
        good=good > 0,
        lost=bad,
        lost_collateral=np.append(holdings.bad, 0)[cover.holding],
        with_collateral=loaded.holdings is not None and loaded.assets is not None,
    )


def _sizes(portfolio: Portfolio) -> Floats:
    """[entry of the netted rows] what each was added up from: the sum of the sizes."""
    rows, netted = portfolio.rows, portfolio.netted
    width = int(rows.column.max(initial=0)) + 1
    every = entry_rows(rows) * width + rows.column
    kept = entry_rows(netted) * width + netted.column
    if not len(kept):
        return np.zeros(0)
    place = np.minimum(np.searchsorted(kept, every), len(kept) - 1)
    own = kept[place] == every
    return add_up(place[own], np.abs(rows.value[own]), len(kept))
