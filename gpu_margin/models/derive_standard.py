"""Derive's standard margin: positions in many markets and coins behind one cash balance.

A margin value is cash + unrealised profit + what coins count for - what perpetuals require + per
market and expiry the better of two option margins: the sum of each short option's own, and the
worst payoff at settlement. Initial margin also asks for more where feeds are unsure or the stable
coin has left its peg. Options are marked by Black-76 at the feed's volatilities, without a rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from gpu_margin import crypto_files, crypto_rows, crypto_sets, crypto_shocks, derive_options
from gpu_margin.backend import Array, Backend
from gpu_margin.crypto_book import (
    COIN,
    FUTURE,
    INITIAL,
    MAINTENANCE,
    OPTION,
    PERPETUAL,
    Bools,
    CryptoBook,
    CryptoMargin,
    CryptoMarket,
    Floats,
    Level,
)
from gpu_margin.portfolio import Rows
from gpu_margin.result import FileMargin
from gpu_margin.settings import Settings

FILES = crypto_files.FILES
CURRENCY = crypto_files.CURRENCY
Inputs = crypto_files.Inputs
load = crypto_files.load
check = crypto_files.check

_NAME = "Derive standard margin"

Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Perpetual(Settings):
    """Shares of |size| x price that a perpetual requires."""

    maintenance: Size
    initial: Size


class Option(Settings):
    """What a short option requires on its own, and what calls that nothing covers require.

    `spot_most` less how far it is out of the money, at least `spot_least`, of the spot price for
    initial margin; `call_maintenance` and `put_maintenance` of it for maintenance, of a put at
    least `put_mark_maintenance` of its mark. A put's initial margin is at least
    `initial_to_maintenance` times its maintenance margin. Uncovered calls add the forward times
    `unpaired_...` to the worst payoff.
    """

    spot_most: Size
    spot_least: Size
    call_maintenance: Size
    put_maintenance: Size
    put_mark_maintenance: Size
    unpaired_maintenance: Size
    unpaired_initial: Size
    initial_to_maintenance: Size


class Collateral(Settings):
    """The share of its value that a coin counts for; times `initial_scale` for initial margin."""

    factor: Share
    initial_scale: Share


class Confidence(Settings):
    """Feeds less sure than these cost (1 - confidence) x `factor` x spot, for initial margin."""

    perpetual: Size
    option: Size
    collateral: Size
    factor: Size


class Market(Settings):
    """A market's figures: what it does not list cannot be held in it."""

    perpetual: Perpetual | None = None
    option: Option | None = None
    collateral: Collateral | None = None
    confidence: Confidence


class Peg(Settings):
    """Initial margin is `factor` x what the stable coin is below `threshold`, of the notional."""

    threshold: Size
    factor: Size


class Figures(Settings):
    """All numbers of the rulebook; `markets` by underlying or coin."""

    peg: Peg
    markets: Mapping[str, Market]


class Parameters(crypto_files.CryptoFiles):
    """Settings of a model."""

    table: str = Field(default="mainnet", description="version of the figures")
    figures: dict[str, dict[str, Any]] = Field(
        default={}, description="figures that replace the table's: peg, or a market's by its name"
    )

    @model_validator(mode="after")
    def _possible(self) -> Parameters:
        figures(self)
        return self


def figures(parameters: Parameters) -> Figures:
    """The table's figures with what the parameters replace of them."""
    table = crypto_files.versioned("derive", "standard", parameters.table)["figures"]
    markets = crypto_files.with_overrides(table, parameters.figures)
    return Figures(peg=markets.pop("peg"), markets=markets)


def margin(parameters: Parameters, inputs: Inputs, rate: float, backend: Backend) -> FileMargin:
    """Margin of all accounts, at `rate` for one USD."""
    found = prepare(figures(parameters), inputs.market, backend).margin(inputs.book)
    facts = parameters.model_dump(include={"table", "figures"})
    return crypto_files.file_margin(inputs, found, rate, {"rulebook": _NAME, **facts})


def prepare(figures: Figures, market: CryptoMarket, backend: Backend) -> Prepared:
    """All that depends on the market only; options are priced here, on the host."""
    instruments = _Instruments(figures, market)
    units, refused = instruments.units(), instruments.refused()
    known = ~np.any(list(refused.values()), axis=0)
    refused[_UNPRICED] = known & ~np.isfinite(units).all(axis=(0, 2))
    bad = np.any(list(refused.values()), axis=0)[:, None]
    units = np.where(bad, 0.0, units).reshape(-1, units.shape[2])
    isolated = np.where(bad, 0.0, instruments.isolated())
    return Prepared(
        market=market,
        refused=refused,
        units=backend.to_device(units),
        isolated=backend.to_device(isolated),
        settlements=derive_options.settlements(market, backend),
        unpaired=_unpaired(figures, market),
        backend=backend,
    )


@dataclass(frozen=True)
class Prepared:
    """The rulebook in one market, on one device.

    `refused` [instrument] by reason; `unpaired` [expiry, level of _LEVELS] what an uncovered short
    call costs. On the device: `units` [2 x instrument, column of _COLUMNS], those of short
    positions after those of long ones; `isolated` [instrument, level] of one short option.
    """

    market: CryptoMarket
    refused: Mapping[str, Bools]
    units: Array
    isolated: Array
    settlements: derive_options.Settlements
    unpaired: Floats
    backend: Backend

    def margin(self, book: CryptoBook, *, pnl: bool = False) -> CryptoMargin:
        """Margin of every set; without scenarios `pnl` has no columns."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._margin(book, pnl)

    def _margin(self, book: CryptoBook, pnl: bool) -> CryptoMargin:
        rows = crypto_sets.netted(book)
        sums = dict(zip(_COLUMNS, self._sums(rows).T, strict=True))
        options = dict(zip(_LEVELS, self._options(rows).T, strict=True))
        levels = {level: _level(level, sums, options[level]) for level in _LEVELS}
        to_market = sums["option_value"] + sums["collateral_value"] + book.unrealised
        refusals = self._refusals(book, rows)
        values = {level: _value(level, book, sums, options[level]) for level in _LEVELS}
        refusals.add(~np.isfinite(to_market + values[INITIAL]), _BEYOND, "quantity")
        found = CryptoMargin(
            levels=levels,
            mark_to_market=to_market,
            cash=book.cash,
            worst=np.full(len(rows), -1, dtype=np.int64),
            scenarios=(),
            figures={
                "option_value": sums["option_value"],
                "collateral_value": sums["collateral_value"],
                "perpetual_unrealised": book.unrealised,
                **{f"option_margin_{level}": options[level] for level in _LEVELS},
                **{f"margin_value_{level}": values[level] for level in _LEVELS},
            },
            failures=refusals.table,
            pnl=np.zeros((len(rows), 0)) if pnl else None,
        )
        return crypto_rows.without(found, refusals.failed)

    def _refusals(self, book: CryptoBook, rows: Rows) -> crypto_sets.Refusals:
        refusals, i = crypto_sets.Refusals(book), self.market.instruments
        for reason, bad in self.refused.items():
            refusals.entries(rows, bad, reason, i.ids)
        refusals.entries(crypto_rows.short(rows), i.kind == COIN, _NEGATIVE, i.ids)
        crypto_rows.refuse_charges(refusals, ())
        return refusals

    def _sums(self, rows: Rows) -> Floats:
        """[set, column] of what positions require one by one."""
        second = np.where(rows.value < 0, len(self.market.instruments), 0)
        sides = Rows(rows.offsets, rows.column + second, np.abs(rows.value))
        return crypto_rows.weighted(self.backend, sides, self.units)

    def _options(self, rows: Rows) -> Floats:
        """[set, level] option margin, over all markets and expiries: <= 0."""
        i, backend, found = self.market.instruments, self.backend, [np.zeros((0, len(_LEVELS)))]
        key = np.where(i.kind == OPTION, i.expiry, crypto_sets.NONE)
        held, owner, expiry = crypto_sets.keyed(rows, key, len(self.market.expiries))
        for start, block in crypto_rows.blocks(held, self.settlements.block):
            unpaired = self.unpaired[expiry[start : start + len(block)]]
            alone = crypto_rows.weighted(backend, crypto_rows.short(block), self.isolated)
            found.append(np.maximum(alone, self.settlements.worst(block, unpaired)))
        return crypto_rows.added(backend, np.concatenate(found), owner, len(rows))


def _value(level: str, book: CryptoBook, sums: Mapping[str, Floats], options: Floats) -> Floats:
    """[set] the margin value as the rulebook adds it up.

    It is what `CryptoMargin.value` gives but for rounding: worst payoffs of whole numbers stay
    whole here, while there the marks of options are added and taken off again.
    """
    value = book.cash + book.unrealised - sums[f"perpetual_{level}"]
    value = value + sums[f"counted_{level}"] + options
    for name in _INITIAL_ONLY if level == INITIAL else ():
        value = value - sums[name]
    return value


def _level(level: str, sums: Mapping[str, Floats], options: Floats) -> Level:
    parts = {
        "perpetual": sums[f"perpetual_{level}"],
        "options": sums["option_value"] - options,
        "collateral_haircut": sums["collateral_value"] - sums[f"counted_{level}"],
    }
    if level == INITIAL:
        parts |= {name: sums[name] for name in _INITIAL_ONLY}
    total = np.zeros(len(options))
    for amount in parts.values():
        total = total + amount
    return Level(total, parts)


# ---------------------------------------------------------------- what depends on the market only

_LEVELS = (INITIAL, MAINTENANCE)
_INITIAL_ONLY = ("peg", "confidence_perpetual", "confidence_option", "confidence_collateral")
_COLUMNS = (
    *("option_value", "collateral_value"),
    *(f"perpetual_{level}" for level in _LEVELS),
    *(f"counted_{level}" for level in _LEVELS),
    *_INITIAL_ONLY,
)

_DATED = "Derive's standard margin has no dated futures"
_INVERSE = "Derive's standard margin has no inverse contracts"
_UNKNOWN = "the rulebook has no figures for such an instrument in its market"
_UNPRICED = "the feeds have no finite price or volatility for the instrument"
_NEGATIVE = "a coin cannot be held short as collateral"
_BEYOND = "the margin is beyond all numbers"


class _Instruments:
    """Terms of the figures per instrument, NaN where its market has none."""

    def __init__(self, figures: Figures, market: CryptoMarket) -> None:
        self.figures, self.market = figures, market
        i, known = market.instruments, list(figures.markets)
        own = np.where(i.underlying < 0, "", market.underlyings.to_numpy()[i.underlying])
        names = np.where(i.kind == COIN, i.ids.to_numpy(), own)
        place = {name: code for code, name in enumerate(known)}
        self.code = np.array([place.get(name, -1) for name in names], dtype=np.int64)
        self.terms = {
            **self._each("perpetual", Perpetual),
            **self._each("option", Option),
            **self._each("collateral", Collateral),
            **self._each("confidence", Confidence),
        }
        option, expiries = i.kind == OPTION, market.expiries
        at, self.price = i.expiry[option], i.price.copy()
        self.price[option] = crypto_shocks.option_value(
            (expiries.forward + expiries.fixed)[at],
            i.strike[option],
            i.volatility[option],
            expiries.seconds[at] / crypto_shocks.YEAR,
            i.call[option],
        )
        self.spot = np.where(i.kind == COIN, i.price, np.append(market.spot, np.nan)[i.underlying])

    def _each(self, part: str, kind: type[Settings]) -> dict[str, Floats]:
        """[instrument] each figure of a part of its market."""
        found, markets = {}, self.figures.markets.values()
        for name in kind.model_fields:
            listed = [getattr(getattr(own, part), name, np.nan) for own in markets]
            found[f"{part}.{name}"] = np.array([*listed, np.nan], dtype=np.float64)[self.code]
        return found

    def refused(self) -> dict[str, Bools]:
        """[instrument] by reason, those that no set may hold."""
        i, terms = self.market.instruments, self.terms
        of_kind = (
            (COIN, terms["collateral.factor"]),
            (PERPETUAL, terms["perpetual.initial"]),
            (OPTION, terms["option.spot_most"]),
        )
        unknown = np.any([(i.kind == kind) & np.isnan(figure) for kind, figure in of_kind], axis=0)
        return {_DATED: i.kind == FUTURE, _INVERSE: i.inverse.copy(), _UNKNOWN: unknown}

    def units(self) -> Floats:
        """[long or short, instrument, column] of one unit held long, and of one held short."""
        i, terms = self.market.instruments, self.terms
        coin, perpetual, option = (i.kind == kind for kind in (COIN, PERPETUAL, OPTION))
        price, none = self.price, np.zeros(len(i))
        counted, scale = terms["collateral.factor"], terms["collateral.initial_scale"]
        below = max(0.0, self.figures.peg.threshold - self.market.stable)
        peg = below * self.figures.peg.factor * self.spot
        unsure = self._unsure()
        both = {
            "collateral_value": np.where(coin, price / self.market.stable, none),  # in stable coins
            "counted_initial": np.where(coin, price * counted * scale, none),
            "counted_maintenance": np.where(coin, price * counted, none),
            "confidence_perpetual": np.where(perpetual, unsure["perpetual"], none),
            "confidence_collateral": np.where(coin, unsure["collateral"], none),
        }
        for level in _LEVELS:
            share = terms[f"perpetual.{level}"]
            both[f"perpetual_{level}"] = np.where(perpetual, price * share, none)
        value, cost = np.where(option, price, none), np.where(option, unsure["option"], none)
        apart = {
            "option_value": (value, -value),
            "confidence_option": (none, cost),
            "peg": (np.where(perpetual, peg, none), peg),
        }
        sides = [(both[name],) * 2 if name in both else apart[name] for name in _COLUMNS]
        return np.stack([np.stack(side, axis=1) for side in zip(*sides, strict=True)])

    def _unsure(self) -> dict[str, Floats]:
        """[instrument] what a unit costs where its feeds are less sure than they must be."""
        i, market, terms = self.market.instruments, self.market, self.terms
        spot = np.append(market.spot_confidence, 1.0)[i.underlying]
        expiries = market.expiries
        feeds = np.minimum(expiries.forward_confidence, expiries.volatility_confidence)
        confidence = {
            "perpetual": np.minimum(spot, i.confidence),
            "option": np.minimum(spot, np.append(feeds, 1.0)[i.expiry]),
            "collateral": np.minimum(spot, i.confidence),
        }
        return {
            name: np.where(
                sure < terms[f"confidence.{name}"],
                (1.0 - sure) * terms["confidence.factor"] * self.spot,
                0.0,
            )
            for name, sure in confidence.items()
        }

    def isolated(self) -> Floats:
        """[instrument, level] margin of one short option alone, its mark included: <= 0."""
        i = self.market.instruments
        terms = {name: self.terms[f"option.{name}"] for name in Option.model_fields}
        initial, maintenance = derive_options.of_short(
            terms, self.spot, i.strike, self.price, i.call
        )
        both = {INITIAL: initial, MAINTENANCE: maintenance}
        levels = np.stack([both[level] for level in _LEVELS], axis=1)
        return np.where((i.kind == OPTION)[:, None], levels, 0.0)


def _unpaired(figures: Figures, market: CryptoMarket) -> Floats:
    """[expiry, level] what a short call costs that nothing covers."""
    scales = [[0.0] * len(_LEVELS) for _ in market.underlyings]
    for code, name in enumerate(market.underlyings):
        own = figures.markets.get(name)
        if own is not None and own.option is not None:
            scales[code] = [getattr(own.option, f"unpaired_{level}") for level in _LEVELS]
    of_underlying = np.array(scales, dtype=np.float64).reshape(-1, len(_LEVELS))
    forward = market.expiries.forward + market.expiries.fixed
    return np.asarray(of_underlying[market.expiries.underlying] * forward[:, None])
