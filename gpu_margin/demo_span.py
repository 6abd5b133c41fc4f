"""A made-up exchange for energy as a PA2 file, and accounts on it, as a user would have them.

Crude oil and what is made of it, in dollars, and power, in euros: futures of six months, options,
spreads within and between them. Arrays are revalued by Black-76; no random number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

_EXCHANGE, _DATE = "DMO", "20261120"
_MONTHS = ("202701", "202702", "202703", "202704", "202705", "202706")
_OPTION_MONTHS = _MONTHS[1::2]
_RATE, _LOOK_AHEAD = 0.04, 1 / 250
# Price moves of scenarios 1 to 14, two by two, and of the points of the composite delta.
_MOVES = (0.0, 1 / 3, -1 / 3, 2 / 3, -2 / 3, 1.0, -1.0)
_WEIGHTS = (0.270, 0.217, 0.217, 0.111, 0.111, 0.037, 0.037)
_EXTREME, _COVER = 3.0, 0.32


@dataclass(frozen=True)
class _Commodity:
    """A combined commodity: its futures and their parameters, in money per contract.

    `carry` is what a month later costs, as a share; strikes are shares of the first price, rounded
    to `step`; tiers of spreads are the months up to the second, and the others. `charges` are of
    spreads within the first tier, between both and within the second; None where there are none.
    """

    code: str
    product: str
    name: str
    currency: str
    price: float
    decimals: int
    multiplier: int
    scan: int
    volatility: float
    carry: float
    step: float
    charges: tuple[int, int, int] | None
    minimum: int
    delivery: tuple[int, int]
    options: str = ""

    def future(self, month: str) -> float:
        """The settlement price of a month."""
        return round(self.price * (1 + self.carry * _MONTHS.index(month)), self.decimals)

    def strikes(self) -> list[int]:
        """Strikes of every option month."""
        return [round(share * self.price / self.step) * int(self.step) for share in _STRIKES]


_STRIKES = (0.85, 0.925, 1.0, 1.075, 1.15)
_COMMODITIES = (
    _Commodity(
        *("CRUDE", "CR", "CRUDE OIL", "USD", 70.0, 2, 1000, 5000, 0.35, -0.004, 5.0),
        *((450, 700, 300), 60, (100, 400), "LCR"),
    ),
    _Commodity(
        *("GASOIL", "GO", "GASOIL", "USD", 650.0, 2, 100, 4400, 0.36, -0.003, 50.0),
        *((400, 650, 280), 50, (90, 350), "LGO"),
    ),
    _Commodity(
        *("PETROL", "PE", "PETROL", "USD", 2.05, 4, 42000, 5600, 0.38, 0.006, 1.0),
        *((550, 900, 400), 0, (120, 500)),
    ),
    _Commodity(
        *("POWER", "PW", "BASE POWER", "EUR", 82.0, 2, 720, 7200, 0.55, -0.02, 1.0),
        *(None, 0, (0, 0)),
    ),
)
# Credits in percent, and code, ratio and side of each leg.
_BETWEEN = (
    (75, (("CRUDE", 3, "A"), ("PETROL", 2, "B"), ("GASOIL", 1, "B"))),
    (60, (("CRUDE", 1, "A"), ("GASOIL", 1, "B"))),
    (65, (("CRUDE", 1, "A"), ("PETROL", 1, "B"))),
    (55, (("GASOIL", 1, "A"), ("PETROL", 1, "B"))),
)


# ---------------------------------------------------------------- what contracts lose


def _normal(x: float) -> float:
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


def _option(
    forward: float, strike: float, volatility: float, years: float, call: bool
) -> tuple[float, float]:
    """Value and delta by Black-76."""
    side, size = (1.0 if call else -1.0), volatility * math.sqrt(years)
    first = math.log(forward / strike) / size + 0.5 * size
    discount = math.exp(-_RATE * years)
    near, far = _normal(side * first), _normal(side * (first - size))
    return side * discount * (forward * near - strike * far), side * discount * near


@dataclass(frozen=True)
class _Contract:
    """A contract with its array (losses of one bought), composite delta and settlement price."""

    commodity: _Commodity
    month: str
    right: str
    strike: int
    array: tuple[int, ...]
    delta: float
    price: float


def _contracts(one: _Commodity) -> Iterator[_Contract]:
    for month in _MONTHS:
        losses = [-round(move * one.scan) for move in _MOVES for _ in range(2)]
        extreme = round(_EXTREME * _COVER * one.scan)
        yield _Contract(one, month, "", 0, (*losses, -extreme, extreme), 1.0, one.future(month))
    for month in _OPTION_MONTHS if one.options else ():
        for strike in one.strikes():
            for right in "CP":
                yield _revalued(one, month, right, strike)


def _revalued(one: _Commodity, month: str, right: str, strike: int) -> _Contract:
    """An option in all scenarios."""
    forward, call, reach = one.future(month), right == "C", one.scan / one.multiplier
    years = (1 + _MONTHS.index(month)) / 12
    now = round(_option(forward, strike, one.volatility, years, call)[0], one.decimals)

    def at(move: float, volatility: float) -> tuple[float, float]:
        return _option(forward + move * reach, strike, volatility, years - _LOOK_AHEAD, call)

    def loss(move: float, shift: float, share: float = 1.0) -> int:
        return round((now - at(move, one.volatility + shift)[0]) * one.multiplier * share)

    shift = one.volatility / 5
    array = [loss(move, side) for move in _MOVES for side in (shift, -shift)]
    array += [loss(_EXTREME * side, 0.0, _COVER) for side in (1.0, -1.0)]
    deltas = [at(move, one.volatility)[1] for move in _MOVES]
    delta = sum(weight * each for weight, each in zip(_WEIGHTS, deltas, strict=True))
    return _Contract(one, month, right, strike, tuple(array), round(delta, 4), now)


# ---------------------------------------------------------------- lines of the file


def _line(*fields: tuple[int, str]) -> str:
    """A record: texts at columns counted from 1."""
    line = [" "] * 200
    for first, text in fields:
        line[first - 1 : first - 1 + len(text)] = text
    return "".join(line).rstrip()


def _number(value: float, width: int, decimals: int = 0) -> str:
    return f"{round(value * 10**decimals):0{width}d}"


def _signed(value: float, width: int, decimals: int = 0) -> str:
    return _number(abs(value), width, decimals) + ("-" if value < 0 else "+")


def _families(one: _Commodity) -> Iterator[str]:
    kinds = [(one.product, "FUT", "FUT", "")]
    kinds += [(one.options, "OOF", "EQTY", " OPTIONS")] if one.options else []
    for product, kind, valuation, more in kinds:
        yield _line(
            *((1, f"P {_EXCHANGE}"), (6, product), (16, kind), (19, one.name[:7] + more)),
            *((34, _number(one.decimals, 3)), (37, "000"), (42, _number(one.multiplier, 14, 7))),
            *((66, f"{one.currency} STD"), (76, "AMER"), (80, one.name + more)),
            *((117, valuation), (122, "DELIV")),
        )


def _definition(one: _Commodity) -> Iterator[str]:
    """The commodity, how it is scanned, spreads within it, delivery, short options."""
    slots = [(23, one.product), (33, "FUT")]
    slots += [(39, one.options), (49, "OOF")] if one.options else []
    yield _line((1, f"2 {_EXCHANGE}"), (7, one.code), (13, "0" + one.currency), (18, "PN"), *slots)
    near, far = _MONTHS[0] + _MONTHS[1], _MONTHS[2] + _MONTHS[-1]
    # What nobody can store is scanned apart, near and far, and knows no spreads.
    apart = one.charges is None
    yield _line((1, "S "), (3, one.code), (9, f"100201{near}02{far}" if apart else "01"), (83, "1"))
    within = "01" if apart else f"1001{near}02{far}"
    yield _line((1, "3 "), (3, one.code), (9, within), (69, "100010001100"))
    yield from _within(one)
    delivered = f"100101{_MONTHS[0]}" + "".join(_number(rate, 7) for rate in one.delivery)
    yield _line(
        *((1, "4 "), (3, one.code), (9, delivered if any(one.delivery) else "01")),
        *((63, _number(one.minimum, 7)), (70, "100100100"), (79, "2")),
    )


def _within(one: _Commodity) -> Iterator[str]:
    """Its spreads: the first two months by series, then tiers."""
    if one.charges is None:
        return
    front = f"{_MONTHS[0][2:]}   010000A{_MONTHS[1][2:]}   010000B"
    charge = _number(0.7 * one.charges[0], 7)
    yield _line((1, "E "), (3, one.code), (9, "00001" + charge), (21, front))
    tiers = ((1, 1), (1, 2), (2, 2))
    for place, ((first, second), rate) in enumerate(zip(tiers, one.charges, strict=True), 1):
        legs = f"010{first}01A020{second}01B"
        yield _line((1, "C "), (3, one.code), (9, f"10{place:02d}02{_number(rate, 7)}"), (22, legs))


def _arrays(found: _Contract) -> Iterator[str]:
    one, option = found.commodity, found.month if found.right else ""
    who = (
        *((3, _EXCHANGE), (6, one.options if found.right else one.product), (16, one.product)),
        *((26, "OOF" if found.right else "FUT"), (29, found.right or " "), (30, found.month)),
        *((39, option), (48, _number(found.strike, 7))),
    )
    values = [_signed(value, 5) for value in found.array]
    price = found.price
    high = (109, _number(price, 14, one.decimals) + "N")
    yield _line((1, "81"), *who, (55, "".join(values[:9])), high)
    delta, settled = _signed(found.delta, 5, 4), _signed(price, 7, one.decimals)
    volatility = _number(one.volatility if found.right else 0.0, 8, 6)
    tail = f"{delta}{volatility}{settled}+{delta}C"
    yield _line((1, "82"), *who, (55, "".join(values[9:]) + tail))


def _parameters(found: _Contract) -> str:
    """The B record of a month: of its options, or of its future."""
    one, option = found.commodity, bool(found.right)
    years = (1 + _MONTHS.index(found.month)) / 12
    return _line(
        *((1, f"B {_EXCHANGE}"), (6, one.options if option else one.product)),
        *((16, "OOF" if option else "FUT"), (19, found.month), (28, found.month if option else "")),
        *((37, _number(one.volatility, 8, 6)), (45, _number(one.volatility / 5, 8, 6))),
        *((53, _number(one.scan, 5)), (58, _number(_EXTREME, 5, 3)), (63, _number(_COVER, 5, 4))),
        *((68, _number(_RATE, 5, 4)), (73, _number(years, 7, 6)), (80, _number(_LOOK_AHEAD, 6, 6))),
        *((86, _number(1, 6, 4)), (100, one.product), (110, "B" if option else "F")),
    )


def _between() -> Iterator[str]:
    for place, (percent, legs) in enumerate(_BETWEEN, 1):
        texts = [
            (17 + 18 * at, f"{_EXCHANGE}Y{code:6}{_number(ratio, 7, 4)}{side}")
            for at, (code, ratio, side) in enumerate(legs)
        ]
        rate = _number(percent, 7, 4)
        yield _line((1, f"6 ALL{place:04d}{rate}"), *texts, (89, "01"), (110, "N"))


def pa2() -> str:
    """The exchange's risk parameter file."""
    found = [contract for one in _COMMODITIES for contract in _contracts(one)]
    months = {(one.commodity.code, one.month, one.right != ""): one for one in found}
    lines = [
        _line(
            *((1, f"0 {_EXCHANGE}"), (9, f"{_DATE}SF 1800{_DATE}1800U2YN")),
            *((51, "C CUST"), (59, "H HEDGE"), (67, "1 CORE"), (75, "M MAINT")),
        ),
        _line((1, "T EUR"), (7, "USD"), (11, _number(1.16, 10, 6))),
        _line((1, f"1 {_EXCHANGE}"), (8, "01")),
        *(line for one in _COMMODITIES for line in _families(one)),
        *(line for one in _COMMODITIES for line in _definition(one)),
        *(_parameters(one) for one in months.values()),
        *(line for one in found for line in _arrays(one)),
        *_between(),
    ]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- accounts

POSITIONS = """\
account_id,contract_id,quantity
refiner,DMO:CR:FUT:202702,30
refiner,DMO:PE:FUT:202702,-20
refiner,DMO:GO:FUT:202702,-10
calendar-trader,DMO:CR:FUT:202701,40
calendar-trader,DMO:CR:FUT:202704,-75
calendar-trader,DMO:CR:FUT:202706,35
collar,DMO:CR:FUT:202704,25
collar,DMO:LCR:OOF:202704:202704:P:65,25
collar,DMO:LCR:OOF:202704:202704:C:75,-25
strangle-seller,DMO:LCR:OOF:202702:202702:C:80,-12
strangle-seller,DMO:LCR:OOF:202702:202702:P:60,-12
strangle-seller,DMO:LGO:OOF:202702:202702:C:750,-8
omnibus,DMO:CR:FUT:202701,50
omnibus,DMO:CR:FUT:202701,-45
omnibus,DMO:LCR:OOF:202702:202702:P:65,-10
power-desk,DMO:PW:FUT:202701,10
power-desk,DMO:PW:FUT:202704,-8
power-desk,DMO:GO:FUT:202703,-3
"""

ACCOUNTS = """\
account_id,account_type,gross
refiner,hedger,false
calendar-trader,speculator,false
collar,hedger,false
strangle-seller,speculator,false
omnibus,member,true
power-desk,hedger,false
"""

CHANGES = """\
whatif_id,account_id,contract_id,action,quantity
buy wings,strangle-seller,DMO:LCR:OOF:202702:202702:C:80,remove,
buy wings,strangle-seller,DMO:LGO:OOF:202702:202702:C:700,add,8
no gasoil,refiner,DMO:GO:FUT:202702,remove,
a crack by itself,,DMO:CR:FUT:202703,add,3
a crack by itself,,DMO:PE:FUT:202703,add,-2
a crack by itself,,DMO:GO:FUT:202703,add,-1
"""


def files() -> dict[str, str]:
    """Names of the files and what is in them."""
    return {
        "span.pa2": pa2(),
        "span_positions.csv": POSITIONS,
        "span_accounts.csv": ACCOUNTS,
        "span_changes.csv": CHANGES,
    }
