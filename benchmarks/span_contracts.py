"""Contracts of a synthetic exchange: futures, options by Black-76 with their risk arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import span_terms
from numpy.typing import NDArray
from scipy.special import ndtr
from span_terms import Commodity, Spread

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FUTURE, CALL, PUT = 0, 1, 2
LOOK_AHEAD = 1 / 252
EXTREME, COVER, VOLATILITY_RANGE = 3.0, 0.33, 0.25
STEPS = np.array([0, 0, 1, 1, -1, -1, 2, 2, -2, -2, 3, 3, -3, -3], dtype=np.float64) / 3
# Where the composite delta is taken, in scan ranges, and what each place weighs.
DELTA_STEPS = np.array([-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1])
DELTA_WEIGHTS = np.array([0.037, 0.111, 0.217, 0.27, 0.217, 0.111, 0.037])
CHUNK = 50_000
DAYS = ("05", "12", "19", "26")


@dataclass(frozen=True)
class Series:
    """Contracts that differ in strike and right only; a future or combination is one by itself.

    `role` is that of a product of the commodity; `at` the place of the month of its future.
    """

    commodity: int
    role: str
    at: int
    future: str
    option: str


@dataclass(frozen=True)
class Exchange:
    """`series_of`, `right`, `strike` (ticks) per contract, in order of commodity and series."""

    commodities: list[Commodity]
    spreads: tuple[Spread, ...]
    series: list[Series]
    series_of: Ints
    right: NDArray[np.int8]
    strike: Ints
    seed: int

    def __len__(self) -> int:
        return len(self.series_of)

    @cached_property
    def commodity(self) -> Ints:
        """Commodity of each contract."""
        owner: Ints = np.array([one.commodity for one in self.series], dtype=np.int64)
        return owner[self.series_of]

    @cached_property
    def terms(self) -> dict[str, Floats]:
        return _terms(self.commodities, self.series)

    def chunks(self, rows: Ints | None = None) -> Iterator[Values]:
        """What contracts are worth, some at a time; the same whichever are asked for."""
        wanted = np.arange(len(self)) if rows is None else rows
        for first in range(0, len(wanted), CHUNK):
            yield values(self, wanted[first : first + CHUNK])


@dataclass(frozen=True)
class Values:
    """Of contracts `row`: ticks, ten-thousandths of delta, arrays in units of the file."""

    row: Ints
    price: Ints
    missing: Bools
    precise: Bools
    delta: Ints
    volatility: Floats
    arrays: Ints = field(repr=False)


def draw(contracts: int, commodities: int, spreads: int, seed: int = 1) -> Exchange:
    """An exchange of exactly so many; ValueError where there are too few or too many contracts."""
    random = np.random.default_rng(seed)
    most = int(np.clip(contracts // commodities // 6, 3, 12))
    every = [span_terms.commodity(random, place, most) for place in range(commodities)]
    series: list[Series] = []
    counts: list[Ints] = []
    singles = [_singles(random, one) for one in every]
    options = contracts - sum(map(len, singles))
    if options < 10 * commodities:
        least = contracts - options + 10 * commodities
        raise ValueError(f"{commodities} commodities need {least} contracts at least")
    held = _shares(random, options, commodities)
    for one, alone, count in zip(every, singles, held.tolist(), strict=True):
        chains = _chains(one)[: max(1, min(count // 12, len(_chains(one))))]
        series += [*alone, *chains]
        parts = np.full(len(chains), count // len(chains))
        parts[: count % len(chains)] += 1
        counts += [np.ones(len(alone), dtype=np.int64), parts]
    size = np.concatenate(counts)
    series_of = np.repeat(np.arange(len(series)), size)
    rung = np.arange(contracts) - np.repeat(np.cumsum(size) - size, size)
    right, strike = _strikes(every, series, size, series_of, rung)
    return Exchange(every, span_terms.spreads(random, every, spreads), series, series_of,
                     right, strike, seed)  # fmt: skip


def _singles(random: np.random.Generator, one: Commodity) -> list[Series]:
    found = [Series(one.place, "future", at, text, "") for at, text in enumerate(one.months)]
    if one.combined:
        at = int(random.integers(0, len(one.months) - 1))
        found.append(Series(one.place, "combination", at, one.months[at], ""))
    return found


def _shares(random: np.random.Generator, options: int, commodities: int) -> Ints:
    """Options per commodity: ten each, and more of some than of others."""
    weight = np.exp(random.normal(0.0, 0.9, commodities))
    found: Ints = 10 + np.floor((options - 10 * commodities) * weight / weight.sum()).astype(
        np.int64
    )
    found[np.argmax(found)] += options - found.sum()
    return found


def _chains(one: Commodity) -> list[Series]:
    """Months and weeks that may have options, the usual ones first."""
    own = one.kind == "OOP"

    def series(role: str, at: int, option: str) -> Series:
        return Series(one.place, role, at, "" if own else one.months[at], option)

    found = [series("option", at, text) for at, text in enumerate(one.months)]
    if len(one.months[0]) == 6:
        front = one.months[0]
        weeks = [series("weekly", 0, front + day) for day in DAYS]
        taken = set(one.months)
        before = [span_terms.month(span_terms.number_of(text) - 1) for text in one.months]
        serial = [
            series("option", at, text) for at, text in enumerate(before)
            if text not in taken and text >= span_terms.month(span_terms.FIRST_MONTH)
        ]  # fmt: skip
        found = [*found[:2], *weeks, *found[2:], *serial]
    return found


def _strikes(
    every: list[Commodity], series: list[Series], size: Ints, series_of: Ints, rung: Ints
) -> tuple[NDArray[np.int8], Ints]:
    """Rights and strikes in ticks of their quote, around the price; no two the same in a series."""
    center = np.array([
        round(one.forward * one.quote.tick / (one.strike.tick * one.strike_base)) for one in every
    ])[[one.commodity for one in series]]  # fmt: skip
    half = (size + 3) // 4
    step = np.maximum(np.minimum(center * 9 // (10 * half), center // 50), 1)
    option = np.array([one.role in ("option", "weekly") for one in series])
    if bool(np.any(option & (half * step >= center))):
        raise ValueError("too many options of a commodity for its price: more commodities, or less")
    base = np.array([one.strike_base for one in every])[[one.commodity for one in series]]
    strike = (center[series_of] + (rung // 2 - half[series_of]) * step[series_of]) * base[series_of]
    strike = np.where(option[series_of], strike + (base * step)[series_of], 0)
    right = np.where(option[series_of], CALL + rung % 2, FUTURE).astype(np.int8)
    return right, strike.astype(np.int64)


def _noise(rows: Ints, seed: int, kind: int) -> Floats:
    """Uniform numbers that depend on a contract's place only (splitmix64)."""
    word = (rows.astype(np.uint64) + np.uint64(1 + 7 * kind + 1_000_003 * seed)) * np.uint64(
        0x9E3779B97F4A7C15
    )
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray((word ^ (word >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def black(forward: Floats, strike: Floats, total: Floats, put: Bools) -> Floats:
    """Undiscounted value of options; `total` is volatility x root of time."""
    first = np.log(forward / strike) / total + total / 2
    call = forward * ndtr(first) - strike * ndtr(first - total)
    return np.asarray(np.maximum(np.where(put, call - forward + strike, call), 0.0))


def values(exchange: Exchange, rows: Ints) -> Values:
    """Prices and arrays of contracts; options of a future's month move with it."""
    own = exchange.series_of[rows]
    terms = {name: column[own] for name, column in exchange.terms.items()}
    money, tick, worth = terms["money"], terms["tick"], terms["worth"]
    calendar, right = terms["calendar"] > 0, exchange.right[rows]
    share = np.where(calendar, 0.1, 1.0) * money
    arrays = np.empty((len(rows), 16))
    arrays[:, :14] = -STEPS * share[:, None]
    arrays[:, 14], arrays[:, 15] = -EXTREME * COVER * share, EXTREME * COVER * share
    delta = np.where(calendar, 0.01, 1.0)
    price = np.where(calendar, np.maximum(terms["forward"] // 500, 1), terms["forward"])
    base, option = terms["volatility"], right != FUTURE
    if bool(option.any()):
        whole = terms["forward"] * tick
        strike = exchange.strike[rows] * terms["strike_tick"]
        base = base * (1 + 0.3 * np.abs(np.log(np.where(option, strike, whole) / whole)))
        asked = whole, strike, money / worth, base, terms["years"], worth
        made = _options(*(item[option] for item in asked), put=right[option] == PUT)
        arrays[option], delta[option] = made[0], made[1]
        price[option] = np.maximum(np.round(made[2] / tick[option]), 1)
    limit = np.where(terms["wide"] > 0, 99_999_999, 99_999)[:, None]
    arrays = np.clip(np.rint(arrays * terms["finer"][:, None]), -limit, limit)
    return Values(
        row=rows,
        price=price.astype(np.int64),
        missing=(_noise(rows, exchange.seed, 0) < 0.04) & option,
        precise=_noise(rows, exchange.seed, 1) < 0.005,
        delta=np.rint(delta * 1e4).astype(np.int64),
        volatility=base,
        arrays=arrays.astype(np.int64),
    )


def _terms(every: list[Commodity], series: list[Series]) -> dict[str, Floats]:
    """What contracts of a series share, per series."""
    found = []
    for one in series:
        own = every[one.commodity]
        found.append((
            round(own.forward * (1 + 0.002 * one.at)), own.quote.tick, own.strike.tick,
            own.ranges[one.at] * 10**own.exponent, own.multiplier / 1e7, own.volatility,
            _years(one), 10.0 ** (own.locator - own.exponent), own.locator,
            one.role == "combination",
        ))  # fmt: skip
    names = ("forward", "tick", "strike_tick", "money", "worth", "volatility", "years", "finer",
             "wide", "calendar")  # fmt: skip
    return dict(zip(names, np.array(found, dtype=np.float64).T, strict=True))


def _years(one: Series) -> float:
    text = one.option or one.future
    months = span_terms.number_of(text) - span_terms.FIRST_MONTH
    return (months + (int(text[6:]) if text[6:] else 18) / 30) / 12


def _options(
    forward: Floats, strike: Floats, size: Floats, base: Floats, years: Floats, worth: Floats,
    *, put: Bools,
) -> tuple[Floats, Floats, Floats]:  # fmt: skip
    """Arrays in money, composite deltas, and values in points."""
    now = black(forward, strike, base * np.sqrt(years), put)
    root = np.sqrt(np.maximum(years - LOOK_AHEAD, 1 / 3650))
    arrays = np.empty((len(forward), 16))
    for place, step in enumerate(STEPS):
        moved = base * (1 + VOLATILITY_RANGE * (1 if place % 2 == 0 else -1))
        arrays[:, place] = now - black(forward + step * size, strike, moved * root, put)
    for place, step in ((14, EXTREME), (15, -EXTREME)):
        then = black(forward + step * size, strike, base * root, put)
        arrays[:, place] = (now - then) * COVER
    delta = np.zeros(len(forward))
    for step, weight in zip(DELTA_STEPS, DELTA_WEIGHTS, strict=True):
        total = base * root
        delta += weight * ndtr(np.log((forward + step * size) / strike) / total + total / 2)
    delta = np.where(put, delta - DELTA_WEIGHTS.sum(), delta) / DELTA_WEIGHTS.sum()
    return arrays * worth[:, None], delta, now
