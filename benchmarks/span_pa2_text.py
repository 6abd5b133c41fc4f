"""A synthetic exchange as PA2, expanded unpacked: fixed columns, arrays made as whole blocks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from span_contracts import Exchange, Series, Values
from span_terms import DATE, EXCHANGES, RATES, Charge, Commodity, Spread, Tier

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]


def line(*fields: tuple[int, str]) -> str:
    """A record: texts at columns counted from 1; the last blanks are cut off."""
    found = bytearray(b" " * 180)
    for first, text in fields:
        found[first - 1 : first - 1 + len(text)] = text.encode("ascii")
    return found.decode("ascii").rstrip()


def fixed(value: int, width: int) -> str:
    """Digits of a field; ValueError where they do not fit."""
    text = f"{value:0{width}d}"
    if len(text) != width or value < 0:
        raise ValueError(f"{value} does not fit into {width} digits")
    return text


def header() -> list[str]:
    flags = (36, "U2YNCLR"), (51, "C CUST  H HEDGE 1 CORE  M MAINT")
    lines = [line((1, "0 SYN"), (9, f"{DATE}SC 1830{DATE}1900"), *flags)]
    for source, target, rate in RATES:
        digits = fixed(round(float(rate) * 1e6), 10)
        lines.append(line((1, f"T {source}"), (7, f"{target}$"), (11, digits)))
    return lines


def families(exchange: Exchange) -> list[str]:
    """The exchanges, each with its products."""
    lines = []
    for number, name in enumerate(EXCHANGES, start=1):
        lines.append(line((1, f"1 {name}"), (8, fixed(number, 2))))
        own = [one for one in exchange.commodities if one.exchange == name]
        lines += [text for one in own for text in _products(one)]
    return lines


def _products(one: Commodity) -> Iterator[str]:
    for role, product in one.products.items():
        option = role in ("option", "weekly")
        # Where the valuation is blank, the style of the commodity says it.
        paid = "" if one.place % 3 == 0 else ("FUT  " if one.style == "F" else "EQTY ")
        strike = one.strike if option else None
        yield line(
            (1, f"P {one.exchange}{product}"),
            (16, one.types[role]),
            (19, f"SYN {role[:10]}".upper()),
            (34, one.quote.field + (strike.field if strike else "000")),
            (40, one.quote.alignment or " "),
            (41, strike.alignment if strike else ""),
            (42, fixed(one.multiplier, 14)),
            (56, "00000001"),
            (66, f"{one.settlement}$STD 00{'AMER' if option else ''}"),
            (80, f"SYNTHETIC {role} {one.code}".upper()),
            (115, "YF"),
            (117, paid if option else "FUT"),
            (122, "DELIV"),
            (144, "00000010000000"),
        )


def definitions(one: Commodity) -> Iterator[str]:
    """Everything of a commodity but its ranges and its arrays."""
    slots = list(one.products.items())
    for part in (slots[:3], slots[3:]):
        if part:
            fields = [(1, f"2 {one.exchange} {one.code:6}{one.exponent}{one.currency}$")]
            fields += [(18, one.style + ("Y" if one.limit else "N")), (20, "S" * one.combined)]
            for place, (role, product) in enumerate(part):
                text = f"{product:10}{one.types[role]}" + ("2+" if one.locator else "")
                fields.append((23 + 16 * place, text))
            yield line(*fields)
    if one.combined and one.place % 2:
        yield line((1, f"X S{one.products['combination']}"), (14, "0000000"))
    yield from _scanning(one)
    yield from _intra(one)
    spot = [
        (13 + 22 * place, fixed(place + 1, 2) + month + fixed(consumed, 7) + fixed(left, 7))
        for place, (month, consumed, left) in enumerate(one.delivery)
    ]
    head = (9, ("10" if spot else "01") + fixed(len(spot), 2))
    tail = (63, fixed(one.minimum, 7) + "".join(fixed(factor, 3) for factor in one.factors))
    yield line((1, f"4 {one.code}"), head, *spot, tail, (79, "1" if one.greater else " "))


def _tiers(tiers: Iterable[Tier], first: int) -> list[tuple[int, str]]:
    return [
        (first + 14 * place, fixed(tier.number, 2) + tier.start + tier.end)
        for place, tier in enumerate(tiers)
    ]


def _scanning(one: Commodity) -> Iterator[str]:
    """S records: one, or one for scanning and one for spreads between commodities."""
    records = [(one.scan_method, one.scan or one.inter)]
    if one.scan_method == "22":
        records = [("22", one.scan), ("23", one.inter)]
    for method, tiers in records:
        rates = [
            (104 + 7 * place, fixed(tier.minimum, 7))
            for place, tier in enumerate(tiers)
            if tier.minimum is not None
        ]
        head = (1, f"S {one.code:6}{method}{fixed(len(tiers), 2)}")
        yield line(head, *_tiers(tiers, 13), (83, str(one.wfpr)), *rates)


def _intra(one: Commodity) -> Iterator[str]:
    ratios = (69, "".join(fixed(ratio, 4) for ratio in one.ratios))
    for tiers in parts(one.intra, 4):
        yield line((1, f"3 {one.code:6}10"), *_tiers(tiers, 11), ratios)
    numbers = {"E": 0, "C": 0}
    for charge in one.charges:
        kind = "E" if isinstance(charge.legs[0][0], str) else "C"
        numbers[kind] += 1
        yield _charge(one, charge, kind, numbers[kind])


def _charge(one: Commodity, charge: Charge, kind: str, number: int) -> str:
    rate = fixed(charge.rate, 7)
    if kind == "E":
        legs = [
            (21 + 14 * place, f"{str(key)[2:]:7}{fixed(ratio * 10_000, 6)}{side}")
            for place, (key, ratio, side) in enumerate(charge.legs)
        ]
        return line((1, f"E {one.code:6}{fixed(number, 5)}{rate}"), *legs)
    legs = [
        (22 + 7 * place, fixed(place + 1, 2) + fixed(int(key), 2) + fixed(ratio, 2) + side)
        for place, (key, ratio, side) in enumerate(charge.legs)
    ]
    head = f"C {one.code:6}10{fixed(number, 2)}{fixed(len(legs), 2)}{rate}"
    return line((1, head), *legs)


def parts(items: tuple[Tier, ...], size: int) -> Iterator[tuple[Tier, ...]]:
    yield from (items[first : first + size] for first in range(0, len(items), size))


def ranges(exchange: Exchange, own: list[Series]) -> Iterator[str]:
    """The B records of a commodity's contracts."""
    for one in own:
        terms = exchange.commodities[one.commodity]
        months = (19, f"{one.future:8}"), (28, f"{one.option:8}")
        volatility = fixed(round(terms.volatility * 1e6), 8) + "00250000"
        factor = fixed(terms.ranges[one.at], 5) + "03000" + "03300"
        times = "00000" + fixed(100_000, 7) + "003968" + fixed(terms.scaling, 6)
        yield line(
            (1, f"B {terms.exchange}{terms.products[one.role]:10}{terms.types[one.role]}"),
            *months,
            (37, volatility + factor + times),
            (92, f"{(one.option or one.future)[:6]}25{terms.products['future']}"),
            (164, "PA00 "),
        )


def legs(exchange: Exchange, own: list[Series]) -> Iterator[str]:
    """The Z records: a combination is its month against the next."""
    for one in own:
        if one.role != "combination":
            continue
        terms = exchange.commodities[one.commodity]
        for place, side in enumerate("AB"):
            month = terms.months[one.at + place]
            yield line(
                (1, f"Z {terms.exchange}{terms.products['combination']:10}CAL  {one.future:8}"),
                (36, f"{fixed(place + 1, 3)}{side}001{terms.products['future']:10}FUT{month:8}"),
                (64, "0000NL 0000000+"),
            )


def between(exchange: Exchange, spread: Spread) -> str:
    """A 6 record."""
    every = exchange.commodities
    fields = [
        (1, "6 ALL"),
        (6, fixed(spread.priority, 4) + fixed(spread.rate, 7)),
        (89, spread.method),
        (101, "F" if spread.flat else " "),
        (110, "S" if spread.above else "N"),
        (122, "Y" if spread.apart else "N"),
    ]
    for place, leg in enumerate(spread.legs):
        owner = every[leg.commodity]
        needed = " " if leg.required else "N"
        ratio = fixed(round(float(leg.ratio) * 10_000), 7)
        text = f"{owner.exchange}{needed}{owner.code:6}{ratio}{leg.side}"
        fields += [(17 + 18 * place, text), (102 + 2 * place, fixed(leg.tier, 2))]
        if spread.apart:
            fields.append((123 + 7 * place, fixed(leg.rate, 7)))
    if spread.method == "04":
        target = every[spread.target]
        fields += [(91, f"{target.exchange}N{target.code}"), (111, "0010000")]
        fields.append((118, fixed(spread.least, 4)))
    return line(*fields)


# ------------------------------------------------------------------------------------- arrays


def digits(numbers: Ints, width: int) -> Bytes:
    """Decimal digits [number, width]; `ValueError` where one does not fit."""
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= 10**width):
        raise ValueError(f"a number does not fit into {width} digits")
    found = np.empty((*numbers.shape, width), dtype=np.uint8)
    left = numbers
    for place in range(width - 1, -1, -1):
        rest = left // 10
        found[..., place] = left - 10 * rest + ord("0")
        left = rest
    return found


def signs(numbers: Ints) -> Bytes:
    return np.where(numbers < 0, np.uint8(ord("-")), np.uint8(ord("+")))[..., None]


def identities(exchange: Exchange) -> Bytes:
    """Columns 3-54 of each series; right and strike are to be filled in."""
    texts = []
    for one in exchange.series:
        own = exchange.commodities[one.commodity]
        product, kind = own.products[one.role], own.types[one.role]
        head = f"{own.exchange}{product:10}{own.products['future']:10}{kind} {one.future:8} "
        texts.append(f"{head}{one.option:8} 0000000".encode("ascii"))
    return np.frombuffer(b"".join(texts), dtype=np.uint8).reshape(len(texts), 52)


def pairs(exchange: Exchange, names: Bytes, found: Values) -> Iterator[Bytes]:
    """Both lines of each contract as rows of bytes: those of five digits, then of eight."""
    wide = exchange.terms["wide"][exchange.series_of[found.row]] > 0
    for chosen, first, width in ((~wide, b"8182", 5), (wide, b"8384", 8)):
        rows = np.flatnonzero(chosen)
        if len(rows):
            yield _pairs(exchange, names, found, rows, first, width)


def _pairs(
    exchange: Exchange, names: Bytes, found: Values, rows: Ints, first: bytes, width: int
) -> Bytes:
    place = found.row[rows]
    count, right = len(rows), exchange.right[place]
    identity = names[exchange.series_of[place]]
    identity[:, 26] = np.array([32, ord("C"), ord("P")], dtype=np.uint8)[right]
    owner = exchange.commodity[place]
    strikes, prices = exchange.strike[place].copy(), found.price[rows].copy()
    for one in np.unique(owner).tolist():
        mine = owner == one
        strikes[mine] = exchange.commodities[one].strike.digits(strikes[mine])
        prices[mine] = exchange.commodities[one].quote.digits(prices[mine])
    identity[:, 45:52] = digits(strikes, 7)
    array = found.arrays[rows]
    values = np.concatenate([digits(np.abs(array), width), signs(array)], axis=2)
    missing, precise = found.missing[rows], found.precise[rows] & ~found.missing[rows]
    regular = np.where(missing, 9_999_999, np.where(precise, 0, prices))
    delta = found.delta[rows]
    current = digits(np.abs(delta), 5), signs(delta)
    flag = np.where(precise, np.uint8(ord("Y")), np.uint8(ord("N")))[:, None]
    high = np.where(missing, 9_999_999, prices)

    def same(text: bytes) -> Bytes:
        return np.tile(np.frombuffer(text, dtype=np.uint8), (count, 1))

    return np.concatenate(
        [
            *(same(first[:2]), identity, values[:, :9].reshape(count, -1), digits(high, 14), flag),
            *(same(b"\n"), same(first[2:]), identity, values[:, 9:].reshape(count, -1), *current),
            digits(np.rint(found.volatility[rows] * 1e6).astype(np.int64), 8),
            *(digits(regular, 7), same(b"++"), *current, same(b"C\n")),
        ],
        axis=1,
    )


def write(exchange: Exchange, out: BinaryIO, told: Callable[[int], None] = lambda _: None) -> None:
    """The whole file; `told` hears how many contracts are written."""
    own = defaultdict(list)
    for one in exchange.series:
        own[one.commodity].append(one)

    def put(lines: Iterable[str]) -> None:
        out.write(("\n".join(lines) + "\n").encode("ascii"))

    put([*header(), *families(exchange)])
    for owner in exchange.commodities:
        mine = own[owner.place]
        put([*definitions(owner), *ranges(exchange, mine), *legs(exchange, mine)])
    codes = [f"{one.code:6}" for one in exchange.commodities]
    put(line((1, "5 ALL"), (13, "".join(codes[at : at + 10]))) for at in range(0, len(codes), 10))
    names, done = identities(exchange), 0
    for part in exchange.chunks():
        for block in pairs(exchange, names, part):
            out.write(block.tobytes())
        done += len(part.row)
        told(done)
    put(["V SYNF0000    202609  000000000", "? a record that nobody knows"])
    put(between(exchange, spread) for spread in exchange.spreads)
