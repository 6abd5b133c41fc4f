"""Records of risk arrays (81 and 82, or 83 and 84 with wider values), paired by their identity.

A contract has two lines, each with half of its array. What is read of a block's lines is kept as
numbers, and the text is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.failures import SCHEMA
from gpu_margin.io.span_pa2_columns import Bools, coded, numbers, sign_of, signed
from gpu_margin.io.span_pa2_fields import Notes
from gpu_margin.io.span_pa2_lines import BLANK, WIDEST, Bytes, Ints, Lines, kind

# Exchange and product; type, right and future month with day; option month with day; strike.
_IDENTITY = (slice(2, 15), slice(25, 37), slice(38, 46), slice(47, 54))
# Where they are among those bytes, one after the other.
FAMILY, RIGHT, FUTURE, OPTION, STRIKE = (
    slice(0, 16),
    slice(16, 17),
    slice(17, 25),
    slice(25, 33),
    slice(33, 40),
)
_UNDERLYING = slice(15, 25)
_NINE, _SEVEN = 9, 7
# What a price is: a number, none, or something that is not a price.
PRICE, NO_PRICE, BAD_PRICE = 0, 1, 2
_NOUGHT = ord("0")

_Arrays = dict[str, NDArray[np.generic]]


@dataclass
class Halves:
    """The first or second halves of one width of array values: `digits` 5 or 8.

    `factors` are value factors that are none, by line: they matter for some families only.
    """

    name: str
    digits: int
    second: bool
    chunks: list[_Arrays] = field(default_factory=list)
    factors: dict[int, str] = field(default_factory=dict)

    @property
    def kind(self) -> int:
        """The two bytes that name its record."""
        return kind(self.name)

    def add(self, lines: Lines, notes: Notes) -> None:
        """Read the lines of a block that are such records."""
        chosen = np.flatnonzero(lines.kinds == self.kind)
        if not len(chosen):
            return
        matrix = lines.matrix(chosen, WIDEST)
        rows = chosen + lines.first
        count = _SEVEN if self.second else _NINE
        values, fault = signed(matrix, 55, count, self.digits)
        end = 54 + count * (self.digits + 1)
        found: _Arrays = {"who": _identity(matrix), "rows": rows, "values": values}
        faults: list[tuple[str, Bools, slice]] = [
            (f"array value {place + 1 + (_NINE if self.second else 0)}", fault == place, at)
            for place in range(count)
            for at in [slice(54 + place * (self.digits + 1), 54 + (place + 1) * (self.digits + 1))]
        ]
        more = _second(matrix, end) if self.second else _first(matrix, end)
        found |= more[0]
        found["good"] = _judged(matrix, rows, [*faults, *more[1]], notes)
        for place in np.flatnonzero(found["own_bad"]) if self.second else ():
            text = bytes(matrix[place, end + 41 : end + 58]).decode("latin-1")
            self.factors[int(rows[place])] = text.strip()
        self.chunks.append(found)

    def column(self, name: str) -> NDArray[np.generic]:
        """[half] one of the columns, of all blocks."""
        return np.concatenate([chunk.pop(name) for chunk in self.chunks])

    @property
    def empty(self) -> bool:
        """Whether the file has none."""
        return not self.chunks


def _identity(matrix: Bytes) -> Bytes:
    """[half, byte] what names a contract; months and days of noughts are blank."""
    who = np.concatenate([matrix[:, part] for part in _IDENTITY], axis=1)
    for month in (FUTURE, OPTION):
        for part in (slice(month.start, month.stop - 2), slice(month.stop - 2, month.stop)):
            nought = (who[:, part] == _NOUGHT).all(axis=1)
            if nought.any():
                who[nought, part] = BLANK
    return who


_Fault = tuple[str, Bools, slice]


def _first(matrix: Bytes, end: int) -> tuple[_Arrays, list[_Fault]]:
    """High-precision price and its flag."""
    wide = matrix[:, end + 14] == ord("Y")
    price, state = _price(matrix, end + 1, end + 14)
    bad = wide & (state == BAD_PRICE)
    faults = [("high-precision settlement price", bad, slice(end, end + 14))]
    return {"price": price, "state": state, "wide": wide}, faults


def _second(matrix: Bytes, end: int) -> tuple[_Arrays, list[_Fault]]:
    """Composite delta, price, signs, and the contract's own value factor."""
    delta = numbers(matrix, end + 1, end + 5)
    minus, odd = sign_of(matrix[:, end + 5])
    price, state = _price(matrix, end + 15, end + 21)
    price_minus, price_odd = sign_of(matrix[:, end + 21])
    strike_minus, strike_odd = sign_of(matrix[:, end + 22])
    own, own_bad = _own_factor(matrix, end + 42)
    found: _Arrays = {
        "delta": np.where(minus, -delta.values, delta.values),
        "price": price,
        "state": state,
        "price_minus": price_minus,
        "strike_minus": strike_minus,
        "own": own,
        "own_bad": own_bad,
        "under": matrix[:, _UNDERLYING].copy(),
    }
    faults = [
        ("composite delta", delta.bad | delta.blank | odd, slice(end, end + 6)),
        ("settlement price", state == BAD_PRICE, slice(end + 14, end + 21)),
        ("settlement price sign", price_odd, slice(end + 21, end + 22)),
        ("strike sign", strike_odd, slice(end + 22, end + 23)),
    ]
    return found, faults


def _price(matrix: Bytes, first: int, last: int) -> tuple[Ints, NDArray[np.int8]]:
    """Digits of prices, and whether they are prices: blanks and nines say that there is none."""
    read = numbers(matrix, first, last)
    none = read.blank | (read.values == 10 ** (last - first + 1) - 1)
    state = np.where(none, NO_PRICE, PRICE).astype(np.int8)
    state[read.bad] = BAD_PRICE
    return np.where(none, 0, read.values), state


def _own_factor(matrix: Bytes, first: int) -> tuple[NDArray[np.float64], Bools]:
    """Value factors of contracts with a variable tick, NaN where there is none; which are bad."""
    field = matrix[:, first - 1 : first + 16]
    own = np.full(len(matrix), np.nan)
    bad = np.zeros(len(matrix), dtype=np.bool_)
    here = np.flatnonzero((field != BLANK).any(axis=1))
    if len(here):
        factor, size = numbers(field[here], 1, 14), numbers(field[here], 15, 16)
        minus, odd = sign_of(field[here, 16])
        power = np.where(minus, -size.values, size.values) - 7
        # Beyond these powers a factor is no number that a price can be multiplied by.
        bad[here] = factor.bad | size.bad | odd | (np.abs(power) > 22)
        tens = 10.0 ** np.minimum(np.abs(power), 22)
        value = np.where(power < 0, factor.values / tens, factor.values * tens)
        own[here] = np.where(factor.values > 0, value, np.nan)
    return own, bad


def _judged(matrix: Bytes, rows: Ints, faults: list[_Fault], notes: Notes) -> Bools:
    """[half] whether no field is bad; the first bad one of each becomes a failure."""
    good = np.ones(len(matrix), dtype=np.bool_)
    for name, bad, part in faults:
        here = np.flatnonzero(bad & good)
        if len(here):
            texts = [bytes(one).decode("latin-1") for one in matrix[here, part]]
            notes.tables.append(failed(rows[here], name, texts, f"malformed {name}", notes.source))
            good[here] = False
    return good


def failed(
    rows: Ints, name: str, values: list[str] | pl.Series, reason: str, source: str
) -> pl.DataFrame:
    """Failures of many lines for one reason."""
    texts = pl.Series(values, dtype=pl.String).str.strip_chars()
    return (
        pl.DataFrame({"row": rows, "value": texts}, schema_overrides={"row": pl.Int64})
        .select(
            pl.lit(reason).alias("reason"),
            pl.lit(source).alias("source"),
            "row",
            pl.lit(name).alias("field"),
            "value",
        )
        .cast(SCHEMA)
    )


@dataclass(frozen=True)
class Pairs:
    """Contracts that have both halves, in the order of their first: [contract] of everything.

    `priced` says whether there is a `price`, the high-precision one where the file says so. `rows`
    and `second_rows` are the lines of both halves; `factors` as for `Halves`.
    """

    who: Bytes
    under: Bytes
    values: NDArray[np.int32]
    delta: Ints
    price: Ints
    priced: Bools
    price_minus: Bools
    strike_minus: Bools
    own: NDArray[np.float64]
    own_bad: Bools
    rows: Ints
    second_rows: Ints
    factors: dict[int, str]

    def __len__(self) -> int:
        return len(self.rows)

    def taken(self, places: Ints | Bools) -> Pairs:
        """Some of them."""
        parts = {name: getattr(self, name)[places] for name in _ARRAYS}
        return Pairs(**parts, factors=self.factors)


_ARRAYS = [name for name in Pairs.__dataclass_fields__ if name != "factors"]


def paired(first: Halves, second: Halves, notes: Notes) -> Pairs | None:
    """Pair the halves of one width; None where there are none. Empties both.

    The first of several first halves with one identity goes with the first of the second ones.
    Halves that have no other are failures, but not when their own line is bad anyway.
    """
    if first.empty and second.empty:
        return None
    who = [_whole(half, "who") for half in (first, second)]
    rows = [_whole(half, "rows") for half in (first, second)]
    good = [_whole(half, "good") for half in (first, second)]
    left, right = _matches(who[0], who[1])
    for place, (half, mine) in enumerate(((first, left), (second, right))):
        alone = np.ones(len(rows[place]), dtype=np.bool_)
        alone[mine] = False
        here = np.flatnonzero(alone & good[place].astype(np.bool_))
        if len(here):
            other = (second, first)[place].name
            texts = [" ".join(bytes(one).decode("latin-1").split()) for one in who[place][here]]
            reason = f"no {other} record of this contract beside this {half.name}: left out"
            notes.tables.append(failed(rows[place][here], "contract", texts, reason, notes.source))
    if not len(left):
        return None
    kept = (good[0][left] & good[1][right]).astype(np.bool_)
    return _joined(first, second, who[0], rows, left[kept], right[kept])


def _whole(half: Halves, name: str) -> NDArray:  # type: ignore[type-arg]
    if half.empty:
        return np.zeros((0, STRIKE.stop) if name == "who" else 0, dtype=np.uint8)
    return half.column(name)


def _matches(first: Bytes, second: Bytes) -> tuple[Ints, Ints]:
    """Places of the halves that belong together, in the order of the first ones."""
    if first.shape == second.shape and bool((first == second).all()):
        every = np.arange(len(first))
        return every, every
    codes = coded(np.concatenate([first, second]))[0]
    one = _occurrences(codes[: len(first)], len(codes))
    other = _occurrences(codes[len(first) :], len(codes))
    _, left, right = np.intersect1d(one, other, assume_unique=True, return_indices=True)
    order = np.argsort(left, kind="stable")
    return left[order], right[order]


def _occurrences(codes: Ints, count: int) -> Ints:
    """[half] a number that says its code and the how manyth of its code it is."""
    order = np.argsort(codes, kind="stable")
    ranked = codes[order]
    starts = np.ones(len(codes), dtype=np.bool_)
    starts[1:] = ranked[1:] != ranked[:-1]
    place = np.arange(len(codes))
    found = np.empty(len(codes), dtype=np.int64)
    found[order] = ranked * (count + 1) + place - np.maximum.accumulate(np.where(starts, place, 0))
    return found


def _joined(
    first: Halves, second: Halves, who: Bytes, rows: list[Ints], left: Ints, right: Ints
) -> Pairs:
    wide = first.column("wide")[left].astype(np.bool_)

    def later(name: str) -> NDArray:  # type: ignore[type-arg]
        return second.column(name)[right]

    return Pairs(
        who=who[left],
        under=later("under"),
        values=np.concatenate([first.column("values")[left], later("values")], axis=1),
        delta=later("delta"),
        price=np.where(wide, first.column("price")[left], later("price")),
        priced=np.where(wide, first.column("state")[left], later("state")) == PRICE,
        price_minus=later("price_minus"),
        strike_minus=later("strike_minus"),
        own=later("own"),
        own_bad=later("own_bad"),
        rows=rows[0][left],
        second_rows=rows[1][right],
        factors=second.factors,
    )


def both(narrow: Pairs | None, wide: Pairs | None) -> Pairs | None:
    """Contracts of both widths in the order of lines."""
    if narrow is None or wide is None:
        return narrow or wide
    joined = {
        name: np.concatenate([getattr(narrow, name), getattr(wide, name)]) for name in _ARRAYS
    }
    every = Pairs(**joined, factors=narrow.factors | wide.factors)
    return every.taken(np.argsort(every.rows, kind="stable"))
