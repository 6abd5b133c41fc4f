"""The plan for one netting set under one model: what is asked, solved, recomputed and said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from gpu_margin.config import Model
from gpu_margin.curing.book import Prices, Terms, book_of, prices, terms_of
from gpu_margin.curing.collateral import Beside
from gpu_margin.curing.model import one_row, requires
from gpu_margin.curing.neutral import Neutral, neutral
from gpu_margin.curing.programme import Book
from gpu_margin.curing.search import Effort, Plan, cure, untouched
from gpu_margin.io import rules
from gpu_margin.io.cost_tables import LoadedCosts
from gpu_margin.io.tables import read_table
from gpu_margin.loading import Loaded
from gpu_margin.models import Prepared
from gpu_margin.settings import Settings
from gpu_margin.unit_risk import Prepared as UnitPrepared

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# A run's requirement is one that is recomputed here within this share of it.
_SAME = 1e-9
# How often a plan is made anew because it made the collateral's own haircuts grow.
_AGAIN = 8
_VAR_NOTE = (
    "value-at-risk: the plan holds under the expected shortfall of the same tail, which is never "
    "below it; a cheaper plan may exist"
)
_OWNER_NOTE = (
    "the status follows the set's share {share:,.2f} of what its owner requires; the plan brings "
    "its own {own:,.2f} to the target, whatever the owner's other books do"
)
_HAIRCUT_NOTE = (
    "haircuts of wrong-way collateral follow the positions: they are recomputed after the plan, "
    "but it is the cheapest for those that it was made with"
)
_FAILED_NOTE = "some of its input rows failed: they are in neither the margin nor the plan"


class CureParameters(Settings):
    """What is asked of a cure."""

    target: float = Field(default=1.0, gt=0, strict=True, description="most initial / collateral")
    hedges: bool = Field(
        default=False,
        description="any spot, future or perpetual on the set's factors may be traded",
    )
    gap: float = Field(default=1e-6, ge=0, lt=1, description="most above the least cost, relative")
    seconds: float = Field(default=30.0, gt=0, description="time for each plan")


@dataclass(frozen=True)
class Cure:
    """The plan for one netting set under one model.

    `trades` (instrument_id, quantity, trade, after, cost, cash): `cash` is what the trade brings to
    the collateral. `neutral` is the residual risk of a delta-neutral set; `notes` say what the plan
    rests on.
    """

    account: str
    netting_set: str
    model: str
    currency: str
    target: float
    plan: Plan
    trades: pl.DataFrame
    neutral: Neutral | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """What all plans share: the parameters, the market's prices, the terms of trading.

    `listing` (kind, expiry) is by code of instrument.
    """

    loaded: Loaded
    parameters: CureParameters
    market: Prices
    terms: Terms
    listing: pl.DataFrame

    @classmethod
    def of(cls, loaded: Loaded, parameters: CureParameters, costs: LoadedCosts | None) -> Asked:
        """Prices and terms of the loaded market; its instruments' kinds are read again."""
        listing = _listing(loaded)
        spot = (listing["kind"] == "spot").fill_null(False).to_numpy()
        market = prices(loaded.market.instruments, spot)
        return cls(loaded, parameters, market, terms_of(market, costs), listing)

    def hedges(self, held: Ints) -> Bools:
        """[instrument] linear ones on the factors of what is held, where they are wanted."""
        instruments = self.loaded.market.instruments
        wanted = np.isin(instruments.factor, instruments.factor[held]) & ~instruments.option
        return wanted if self.parameters.hedges else np.zeros_like(wanted)

    def columns(self, held: Ints) -> Ints:
        """Codes of what is held and of what it may be hedged with."""
        terms = self.terms
        others = (self.hedges(held) | terms.listed | terms.tradable) & ~terms.refused
        return np.union1d(held, np.flatnonzero(others)).astype(np.int64)


def _listing(loaded: Loaded) -> pl.DataFrame:
    """(kind, expiry) of instruments by code, as the instruments table has them."""
    source = loaded.config.inputs.instruments
    table = read_table(source, "instruments", ("instrument_id", "kind"), ("expiry",))
    frame = rules.text_columns(table.good, ["instrument_id", "kind"])
    frame = rules.date_columns(frame, ["expiry"]).with_columns(
        pl.col("kind").str.strip_chars().str.to_lowercase()
    )
    ids = loaded.market.instruments.ids.to_frame("instrument_id")
    # Instruments that are valid stand in one row.
    found = ids.join(
        frame.unique("instrument_id"), on="instrument_id", how="left", maintain_order="left"
    )
    return found.select("kind", "expiry")


class Case:
    """One netting set under one model: `number` is the set's in the account that `beside` is of.

    `held` are codes of instruments (ascending), `quantity` of each.
    """

    def __init__(
        self, asked: Asked, model: Model, beside: Beside, number: int, held: Ints, quantity: Floats
    ) -> None:
        self._asked, self._model, self._beside, self._number = asked, model, beside, number
        self._own = asked.columns(held)
        self._position = np.zeros(len(self._own))
        self._position[np.searchsorted(self._own, held)] = quantity
        self._assets, self._units = beside.inside(number)
        columns = np.concatenate([self._own, self._assets])
        self._required = requires(beside.prepared, _exact(beside), columns)

    def plan(self, standing: Mapping[str, Any]) -> Cure:
        """The plan; `standing` is the set's row of the accounts table."""
        loaded = self._asked.loaded
        book = self._book(float(standing["collateral_value"]))
        # Netting between venues may have met the target for the set already.
        met = standing["initial"] <= book.target * book.value
        plan = untouched(book, standing["initial"]) if met else self._solved(book)
        return Cure(
            account=standing["account_id"],
            netting_set=standing["netting_set"] or standing["account_id"],
            model=self._model.name,
            currency=loaded.market.currency,
            target=book.target,
            plan=self._named(plan),
            trades=self._trades(book, plan),
            neutral=neutral(
                loaded.market, self._asked.listing, self._own, self._position, self._alone
            ),
            notes=tuple(self._notes(standing, plan)),
        )

    def _book(self, value: float) -> Book:
        """Positions and, where they are in the scenarios, assets, which stay as they are."""
        asked = self._asked
        hedges = asked.hedges(self._own[self._position != 0.0])
        terms = (asked.market, asked.terms, hedges)
        book = book_of(self._own, self._position, *terms, value, asked.parameters.target)
        nothing, ones = np.zeros(len(self._units)), np.ones(len(self._units))
        return replace(
            book,
            quantity=np.concatenate([book.quantity, self._units]),
            cost=np.concatenate([book.cost, nothing]),
            cash=np.concatenate([book.cash, nothing]),
            lot=np.concatenate([book.lot, ones]),
            lower=np.concatenate([book.lower, self._units]),
            upper=np.concatenate([book.upper, self._units]),
        )

    def _solved(self, book: Book) -> Plan:
        """The plan, made anew where it makes haircuts grow until it holds with them."""
        parameters, required = self._asked.parameters, self._required
        effort = Effort(parameters.gap, parameters.seconds)
        assumed = book
        for _ in range(_AGAIN):
            plan = cure(assumed, required.parts, required.amount, effort, required.bound)
            if plan.status != "cured" or not self._beside.haircuts_move(self._number):
                return plan
            after = one_row(required.columns, plan.position)
            worth = self._beside.value(self._number, after)
            total = worth + (plan.value_after - plan.value_before)
            held = plan.requirement_after <= book.target * total
            plan = replace(plan, value_before=book.value, value_after=total, verified=held)
            if held:
                return plan
            assumed = replace(assumed, value=min(worth, assumed.value - _SAME * abs(worth)))
        reason = "haircuts of wrong-way collateral grow with every plan that was tried"
        return replace(plan, status="unfinished", reason=reason)

    def _alone(self, position: Floats) -> float:
        """What positions [own column] require without the collateral beside them."""
        return self._required.amount(np.append(position, np.zeros(len(self._units))))

    def _named(self, plan: Plan) -> Plan:
        if not len(plan.binding):
            return plan
        own = plan.binding[plan.binding < len(self._own)]
        names = self._asked.loaded.market.instruments.ids.gather(self._own[own]).to_list()
        limits = f"; limits bind in {', '.join(names)}" if names else ""
        return replace(plan, reason=plan.reason + limits)

    def _trades(self, book: Book, plan: Plan) -> pl.DataFrame:
        places = np.flatnonzero(plan.trades)
        trade = plan.trades[places]
        ids = self._asked.loaded.market.instruments.ids
        return pl.DataFrame(
            {
                "instrument_id": ids.gather(self._own[places]),
                "quantity": book.quantity[places],
                "trade": trade,
                "after": plan.position[places],
                "cost": np.abs(trade) * book.cost[places],
                "cash": plan.proceeds[places] + 0.0,  # -0.0 becomes 0.0
            }
        )

    def _notes(self, standing: Mapping[str, Any], plan: Plan) -> Iterator[str]:
        """What a reader has to know of a plan."""
        if self._required.bound and plan.status != "fine":
            yield _VAR_NOTE
        if self._beside.haircuts_move(self._number) and plan.status != "fine":
            yield _HAIRCUT_NOTE
        share, own = standing["initial"], plan.requirement_before
        if share is not None and abs(share - own) > _SAME * own:
            yield _OWNER_NOTE.format(share=share, own=own)
        if not standing.get("complete", True):
            yield _FAILED_NOTE


def _exact(beside: Beside) -> Prepared:
    """The model in float64, for the programme; what is official stays as it is."""
    prepared = beside.prepared
    if not isinstance(prepared, UnitPrepared):
        return prepared
    if prepared.unit.unit_pnl is None or prepared.unit.vectors is not None:
        return prepared
    return beside.in_float64()
