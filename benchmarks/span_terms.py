"""Terms of a synthetic exchange: combined commodities with tiers, charges, delivery; spreads.

Rates and ranges are whole numbers as a file writes them: times 10^`exponent` they are money.
Months are CCYYMM, with a day after it where contracts have days.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from span_quotes import Quote

EXCHANGES = ("SYA", "SYB", "SYC", "SYD")
DATE, FIRST_MONTH = "20260901", 2026 * 12 + 8
CURRENCIES = ("USD", "EUR", "GBP")
RATES = (
    *(("USD", "USD", "1.000000"), ("EUR", "USD", "1.125000"), ("GBP", "USD", "1.310000")),
    ("EUR", "GBP", "0.858779"),
)
ACCOUNTS = ("member", "hedger", "speculator")

# Quotes of prices and how many of a thousand commodities have them.
_QUOTES = (
    *((Quote(2), 420), (Quote(0), 60), (Quote(1), 80), (Quote(3), 130), (Quote(4), 100)),
    *((Quote(5), 50), (Quote(-2), 20), (Quote(3, "0"), 60), (Quote(3, "C"), 50)),
    *((Quote(2, "C"), 10), (Quote(3, "K"), 20)),
)


@dataclass(frozen=True)
class Tier:
    number: int
    start: str
    end: str
    minimum: int | None = None  # short option minimum, of scan tiers only


@dataclass(frozen=True)
class Charge:
    """A spread within a commodity: legs are (month, or number of a tier; ratio; side)."""

    rate: int
    legs: tuple[tuple[str | int, int, str], ...]


@dataclass(frozen=True)
class Leg:
    commodity: int
    ratio: str
    side: str
    tier: int = 0
    required: bool = True
    rate: int = 0  # where legs have rates of their own


@dataclass(frozen=True)
class Spread:
    """Between commodities; `rate` is a ten-thousandth of a percent, a hundredth of money if `flat`.

    `target` is the commodity that a spread by scanning ends in.
    """

    priority: int
    method: str
    rate: int
    legs: tuple[Leg, ...]
    flat: bool = False
    apart: bool = False
    above: bool = False
    target: int = -1
    least: int = 0


@dataclass(frozen=True)
class Commodity:
    """`locator` of 2 has arrays of eight digits in hundredths; `multiplier` is in 1e-7."""

    place: int
    code: str
    exchange: str
    currency: str
    settlement: str
    exponent: int
    locator: int
    style: str
    limit: bool
    wfpr: int
    months: tuple[str, ...]
    ranges: tuple[int, ...]
    scaling: int
    quote: Quote
    strike: Quote
    strike_base: int
    forward: int
    multiplier: int
    volatility: float
    kind: str
    combined: bool
    scan_method: str
    scan: tuple[Tier, ...]
    inter: tuple[Tier, ...]
    intra: tuple[Tier, ...]
    charges: tuple[Charge, ...]
    delivery: tuple[tuple[str, int, int], ...]
    minimum: int
    greater: bool
    factors: tuple[int, int, int]
    ratios: tuple[int, int, int]

    @property
    def products(self) -> dict[str, str]:
        """Code of the product of a role; the type follows from the role."""
        number = f"{self.place:04d}"
        names = {"future": f"F{number}", "option": f"O{number}", "weekly": f"W{number}"}
        return names | ({"combination": f"K{number}"} if self.combined else {})

    @property
    def types(self) -> dict[str, str]:
        roles = {"future": "FUT", "option": self.kind, "weekly": self.kind, "combination": "CMB"}
        return {role: roles[role] for role in self.products}


def month(number: int) -> str:
    """CCYYMM of a number of months since the year 0."""
    return f"{number // 12}{number % 12 + 1:02d}"


def number_of(text: str) -> int:
    return int(text[:4]) * 12 + int(text[4:6]) - 1


def tiers(random: np.random.Generator, months: tuple[str, ...], count: int) -> tuple[Tier, ...]:
    """So many tiers that have every month, in order."""
    whole = [one[:6] for one in months]
    cuts = sorted(random.choice(np.arange(1, len(whole)), count - 1, replace=False).tolist())
    bounds = [0, *cuts, len(whole)]
    return tuple(
        Tier(place + 1, whole[low], whole[high - 1])
        for place, (low, high) in enumerate(pairwise(bounds))
    )


def _charges(
    random: np.random.Generator, months: tuple[str, ...], within: tuple[Tier, ...], scale: int
) -> tuple[Charge, ...]:
    """Of months next to each other and of a butterfly; then of tiers, within one and between."""

    def rate() -> int:
        return int(random.integers(1, max(scale // 8, 2)))

    found = [
        Charge(rate(), ((near, 1, "A"), (far, 1, "B")))
        for near, far in list(pairwise(months))[: int(random.integers(1, 5))]
    ]
    if random.random() < 0.3:
        wings = tuple(zip(months[:3], (1, 2, 1), "ABA", strict=True))
        found.append(Charge(rate(), wings))
    numbers = [tier.number for tier in within]
    if random.random() < 0.15 and len(numbers) >= 3:
        found.append(Charge(rate(), tuple(zip(numbers[:3], (1, 2, 1), "ABA", strict=True))))
    found += [Charge(rate(), ((one, 1, "A"), (one, 1, "B"))) for one in numbers]
    pairs = list(pairwise(numbers)) + ([(numbers[0], numbers[-1])] if len(numbers) > 2 else [])
    found += [Charge(rate(), ((near, 1, "A"), (far, 1, "B"))) for near, far in pairs]
    return tuple(found)


def _months(random: np.random.Generator, most: int, dated: bool) -> tuple[str, ...]:
    step = int(random.choice([1, 1, 2, 3, 3]))
    first = FIRST_MONTH + int(random.integers(0, 3))
    count = int(random.integers(3, most + 1))
    day = f"{int(random.integers(10, 25))}" if dated else ""
    return tuple(month(first + step * place) + day for place in range(count))


def _level(random: np.random.Generator, quote: Quote) -> tuple[int, Quote, int]:
    """A price in ticks, the quote of strikes, and the smallest step of strikes in their ticks."""
    if quote.parts > 1:
        low, high = (2_000, 90_000) if quote.alignment == "0" else (100, 3_000)
        whole = round(float(np.exp(random.uniform(np.log(low), np.log(high)))))
        aligned = quote.locator == 3 and quote.alignment != "0" and random.random() < 0.5
        plain = Quote(2) if quote.alignment == "0" else Quote(1)
        return whole * quote.parts, quote if aligned else plain, quote.parts // 8 if aligned else 1
    ticks = round(float(np.exp(random.uniform(np.log(2e4), np.log(4e6)))))
    # Files shift strikes by three places at most.
    fewer = min(int(np.floor(np.log10(ticks / 2_000))), quote.locator + 3)
    return ticks, Quote(quote.locator - fewer), 1


def commodity(random: np.random.Generator, place: int, most_months: int) -> Commodity:
    """One combined commodity; nothing in it depends on another."""

    def choice(values: tuple[str, ...], shares: tuple[float, ...]) -> str:
        return str(random.choice(np.array(values), p=np.array(shares)))

    weight = np.array([share for _, share in _QUOTES], dtype=np.float64)
    quote = _QUOTES[int(random.choice(len(_QUOTES), p=weight / weight.sum()))][0]
    exponent = int(random.choice([1, 2])) if random.random() < 0.06 and quote.locator < 4 else 0
    locator = 2 if exponent == 0 and random.random() < 0.15 else 0
    forward, strike, base = _level(random, quote)
    size = round(float(np.exp(random.uniform(np.log(200), np.log(30_000)))))
    money = size * 10**exponent
    multiplier = money / (random.uniform(0.03, 0.10) * forward * quote.tick)
    digits = 10.0 ** (2 - np.floor(np.log10(multiplier)))
    multiplier = round(multiplier * digits) / digits
    months = _months(random, most_months, dated=random.random() < 0.02)
    method = choice(("01", "10", "20", "21", "22"), (0.3, 0.15, 0.3, 0.2, 0.05))
    wide = tiers(random, months, 2 if len(months) < 4 else int(random.integers(2, 4)))
    narrow = tiers(random, months, 2)
    if method in ("10", "21") and random.random() < 0.4:
        wide = tuple(
            Tier(one.number, one.start, one.end, int(random.integers(1, 90))) for one in wide
        )
    within = tiers(random, months, min(len(months), int(random.integers(2, 7))))
    currency = choice(("USD", "EUR", "GBP"), (0.9, 0.07, 0.03))
    other = choice(CURRENCIES, (0.4, 0.4, 0.2))
    spot = months[: int(random.integers(0, 3))] if len(months[0]) == 6 else ()
    return Commodity(
        place=place,
        code=f"C{place:04d}",
        exchange=EXCHANGES[place % len(EXCHANGES)],
        currency=currency,
        settlement=other if random.random() < 0.02 else currency,
        exponent=exponent,
        locator=locator,
        style="F" if random.random() < 0.1 else "P",
        limit=bool(random.random() < 0.05),
        wfpr=int(choice(("1", "2", "3"), (0.7, 0.2, 0.1))),
        months=months,
        ranges=tuple(max(round(size * (1 - 0.01 * step)), 3) for step in range(len(months))),
        scaling=int(random.choice([10_000] * 8 + [2_000, 5_000])),
        quote=quote,
        strike=strike,
        strike_base=base,
        forward=forward,
        multiplier=max(round(multiplier * 1e7), 1),
        volatility=float(random.uniform(0.12, 0.6)),
        kind="OOP" if random.random() < 0.06 else "OOF",
        combined=bool(random.random() < 0.05),
        scan_method=method,
        scan=wide if method in ("10", "21", "22") else (),
        inter=narrow if method in ("20", "22") else (wide if method == "21" else ()),
        intra=within,
        charges=_charges(random, months, within, size),
        delivery=tuple(
            (one, int(random.integers(0, size // 4 + 1)), int(random.integers(0, size // 2 + 1)))
            for one in spot
        ),
        minimum=int(random.choice([0, 10, 25, 60])),
        greater=bool(random.random() < 0.4),
        factors=(100, int(random.choice([100, 100, 100, 110, 125])), 110),
        ratios=(1_000, int(random.choice([1_000, 1_000, 1_350])), 1_100),
    )


def spreads(random: np.random.Generator, every: list[Commodity], count: int) -> tuple[Spread, ...]:
    """Chains A-B, B-C, ... first; then pairs further apart, butterflies, and spreads by scanning.

    Every commodity has others within three places of it only: who holds neighbours has spreads.
    """
    order = random.permutation(count) + 1
    return tuple(
        _spread(random, every, place if place < len(every) - 1 else -1, int(order[place]))
        for place in range(count)
    )


def _spread(random: np.random.Generator, every: list[Commodity], at: int, priority: int) -> Spread:
    """One that begins the chain's link `at`, or anywhere where `at` is -1."""
    draw, chained = random.random(), at >= 0
    legs = 2 if chained or draw < 0.5 else 3
    legs = min(legs, len(every))
    first = at if chained else int(random.integers(0, len(every) - legs + 1))
    chosen = list(range(first, first + legs))
    if legs == 2 and not chained:
        chosen[1] = min(first + int(random.integers(1, 4)), len(every) - 1)
    if not chained and draw > 0.95:
        return _by_scanning(random, every, chosen, priority)
    flat = bool(random.random() < 0.1)
    sides = "AB" if legs == 2 and random.random() < 0.85 else "AAB" if draw > 0.9 else "ABA"
    method, picked = _tiered(random, [every[one] for one in chosen])

    def rate() -> int:
        return int(random.integers(1_000, 90_000) if flat else random.integers(30, 96) * 10_000)

    return Spread(
        priority=priority,
        method=method,
        rate=rate(),
        flat=flat,
        apart=bool(random.random() < 0.1),
        above=bool(random.random() < 0.02),
        legs=tuple(
            Leg(
                commodity=one,
                ratio=str(random.choice(["1", "1", "1", "2", "0.5", "3"])),
                side=side,
                tier=tier,
                rate=rate(),
            )
            for one, side, tier in zip(chosen, sides[:legs], picked, strict=True)
        ),
    )


def _tiered(random: np.random.Generator, chosen: list[Commodity]) -> tuple[str, list[int]]:
    """A method of deltas, and the tier of each leg (20 only)."""
    wholes, draw = [0] * len(chosen), random.random()
    if draw < 0.3:
        picked = [one.inter[-1].number if one.inter and draw < 0.25 else 0 for one in chosen]
        return ("20", picked) if any(picked) else ("01", wholes)
    return ("02" if draw < 0.6 and all(one.inter for one in chosen) else "01"), wholes


def _by_scanning(
    random: np.random.Generator, every: list[Commodity], chosen: list[int], priority: int
) -> Spread:
    """Method 04, mostly above; its target is a leg, or the commodity behind the legs."""
    beyond = chosen[-1] + 1
    target = beyond if beyond < len(every) and random.random() < 0.2 else chosen[0]
    return Spread(
        priority=priority,
        method="04",
        rate=int(random.integers(30, 99)) * 10_000,
        legs=tuple(
            Leg(one, "1", "AB"[step % 2], required=step < 2) for step, one in enumerate(chosen)
        ),
        above=bool(random.random() < 0.8),
        target=target,
        least=int(random.choice([0, 2])),
    )
