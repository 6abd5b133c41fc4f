"""Contracts of PA2 from their halves and from what families and months say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.io.span_pa2_columns import Bools, coded, numbers, spread
from gpu_margin.io.span_pa2_commodities import Commodities, Commodity
from gpu_margin.io.span_pa2_families import Family, Key, Months, key_of
from gpu_margin.io.span_pa2_fields import Malformed, Notes, month_of
from gpu_margin.io.span_pa2_halves import FAMILY, FUTURE, OPTION, RIGHT, STRIKE, Pairs, failed
from gpu_margin.io.span_pa2_lines import BLANK, Ints
from gpu_margin.io.span_pa2_prices import Floats, Quotation, figures, fractions, shown
from gpu_margin.io.span_pa2_series import Series, series_of
from gpu_margin.span_tables import CONTRACTS

_RIGHTS = ("", "C", "P")


@dataclass(frozen=True)
class Found:
    """Rows of `CONTRACTS`, [contract, point] arrays, [contract] the product beneath, and series.

    `of_series` [contract] is its series.
    """

    contracts: pl.DataFrame
    arrays: Floats
    under: pl.Series
    series: Series
    of_series: Ints


@dataclass(frozen=True)
class _Families:
    """[family] what a contract needs of it, by the codes of this file's contracts."""

    keys: list[Key]
    families: list[Family]
    commodities: list[str]
    places: Ints

    def each(self, name: str) -> list[Quotation]:
        return [getattr(family, name) for family in self.families]


def contracts_of(
    pairs: Pairs,
    families: dict[Key, Family | str],
    months: Months,
    commodities: Commodities,
    notes: Notes,
) -> Found:
    """All contracts whose lines and whose family are good; the others become failures.

    `families` has a reason instead of a family where its record is malformed.
    """
    codes, texts = coded(pairs.who[:, FAMILY])
    known, usable = _known(codes, texts, families, commodities, pairs, notes)
    keep = usable[codes]
    if not keep.all():
        pairs, codes = pairs.taken(keep), codes[keep]
    judged = _Judged(pairs, codes, known)
    good = judged.good(notes)
    if not good.all():
        pairs, codes, judged = pairs.taken(good), codes[good], judged.taken(good)
    series, of_series = series_of(
        codes, judged.future, judged.option, known.keys, known.commodities, months
    )
    # Families that cannot be used have no commodity, and by now no contracts either.
    home = [commodities.every.get(name) or Commodity(name) for name in known.commodities]
    exponents = np.array([one.exponent for one in home], dtype=np.int64) - known.places
    premium = [
        family.valuation == "EQTY" if family.valuation else one.style != "F"
        for family, one in zip(known.families, home, strict=True)
    ]
    variable = np.array([family.variable for family in known.families], dtype=np.bool_)
    times = np.array([family.multiplier for family in known.families], dtype=np.float64)[codes]
    own = variable[codes] & ~np.isnan(pairs.own)
    right = spread(judged.right, list(_RIGHTS))
    currency = [
        family.currency or one.currency for family, one in zip(known.families, home, strict=True)
    ]
    suffix, suffixes = judged.suffixes()
    frame = pl.DataFrame(
        {
            "contract_id": _joined(series.prefixes, of_series, suffixes, suffix),
            "exchange": spread(codes, [key[0] for key in known.keys]),
            "combined_commodity": spread(codes, known.commodities),
            "product": spread(codes, [key[1] for key in known.keys]),
            "type": spread(codes, [key[2] for key in known.keys]),
            "future_month": spread(of_series, series.table["future_month"].to_list()),
            "option_month": spread(of_series, series.table["option_month"].to_list()),
            "delta_month": spread(of_series, series.table["delta_month"].to_list()),
            "right": right,
            "strike": pl.Series(judged.strike).fill_nan(None),
            "price": pl.Series(judged.price).fill_nan(None),
            "multiplier": np.where(own, pairs.own, times),
            "delta": pairs.delta / 10_000,
            "scaling": series.table["scaling"].to_numpy()[of_series] / 10_000,
            "premium": np.array(premium, dtype=np.bool_)[codes] & (judged.right > 0),
            "currency": spread(codes, currency),
            "decimals": np.maximum(-exponents, 0)[codes],
            "refused": spread(of_series, series.table["fault"].to_list()),
            "row": pairs.rows,
        },
        schema=CONTRACTS,
    )
    # Arrays stay whole numbers: what makes them greater is not left to the decimals.
    scale = 10.0 ** np.maximum(exponents, 0)[codes]
    arrays = pairs.values.astype(np.float64)
    if (scale != 1).any():
        arrays *= scale[:, None]
    beneath, products = coded(pairs.under)
    under = spread(beneath, [text.strip() for text in products])
    return _once(Found(frame, arrays, under, series, of_series), notes)


def _known(
    codes: Ints,
    texts: list[str],
    families: dict[Key, Family | str],
    commodities: Commodities,
    pairs: Pairs,
    notes: Notes,
) -> tuple[_Families, Bools]:
    """What is known of each family, and which can be used: one failure for each that cannot."""
    nothing = Family(Quotation(), Quotation(), 0.0, "", "", False)
    known = _Families([key_of(text) for text in texts], [], [], np.zeros(len(texts), np.int64))
    usable = np.ones(len(texts), dtype=np.bool_)
    for code, key in enumerate(known.keys):
        family, slot = families.get(key, "no P record describes it"), commodities.slots.get(key)
        reason = family if isinstance(family, str) else ""
        if slot is None:
            reason = "no 2 record has it in a combined commodity"
        if reason:
            usable[code] = False
            here = np.flatnonzero(codes == code)
            said = f"{reason}: its {len(here)} contracts are left out"
            notes.fail(int(pairs.rows[here[0]]), "product", ":".join(key), said)
        known.families.append(nothing if isinstance(family, str) else family)
        known.commodities.append("" if slot is None else slot[0])
        known.places[code] = 0 if slot is None else slot[1]
    return known, usable


class _Judged:
    """[contract] what each is, and why it cannot be used."""

    def __init__(self, pairs: Pairs, codes: Ints, known: _Families) -> None:
        self.pairs = pairs
        self.faults: list[tuple[str, Bools, Ints, list[str] | None]] = []
        self.future = self._month("futures month", FUTURE)
        self.option = self._month("option month", OPTION)
        letter = pairs.who[:, RIGHT][:, 0]
        self.right = (letter == ord("C")) + 2 * (letter == ord("P")).astype(np.int64)
        optional = np.array([key[2].startswith("OO") for key in known.keys], dtype=np.bool_)
        odd = ((self.right > 0) != optional[codes]) | ((self.right == 0) & (letter != BLANK))
        self._fault("option right", odd, RIGHT)
        read = numbers(pairs.who, STRIKE.start + 1, STRIKE.stop)
        option = self.right > 0
        self._fault("strike", option & (read.bad | read.blank), STRIKE)
        quoted = _quotations(known.each("strike"))[:, codes]
        top, bottom, bad = fractions(np.where(option, read.values, 0), quoted[0], quoted[1])
        self._fault("strike", bad, STRIKE)
        self.strikes = np.stack([top, bottom, pairs.strike_minus & option])
        self.strike = np.where(option, figures(top, bottom, pairs.strike_minus), np.nan)
        quoted = _quotations(known.each("price"))[:, codes]
        top, bottom, bad = fractions(pairs.price, quoted[0], quoted[1])
        value = figures(top, bottom, pairs.price_minus)
        self.price = np.where(pairs.priced, value, np.nan)
        self._figures("settlement price", bad & pairs.priced, pairs.price.tolist())
        if pairs.factors:
            variable = np.array([family.variable for family in known.families], dtype=np.bool_)
            texts = [pairs.factors.get(row, "") for row in pairs.second_rows.tolist()]
            self._figures("contract value factor", pairs.own_bad & variable[codes], texts)

    def _fault(self, name: str, bad: Bools, part: slice) -> None:
        if bad.any():
            texts = [bytes(one).decode("latin-1") for one in self.pairs.who[bad, part]]
            self.faults.append((name, bad, self.pairs.rows, texts))

    def _figures(self, name: str, bad: Bools, values: list[object] | list[str]) -> None:
        if bad.any():
            texts = [str(values[place]) for place in np.flatnonzero(bad)]
            self.faults.append((name, bad, self.pairs.second_rows, texts))

    def _month(self, name: str, part: slice) -> pl.Series:
        codes, texts = coded(self.pairs.who[:, part])
        months: list[str | None] = []
        for text in texts:
            try:
                months.append(month_of(name, text[:6].strip(), text[6:].strip()))
            except Malformed:
                months.append(None)
        found = spread(codes, months)
        self._fault(name, found.is_null().to_numpy(), part)
        return found

    def good(self, notes: Notes) -> Bools:
        """Which can be used; the first fault of each of the others is noted."""
        good = np.ones(len(self.pairs), dtype=np.bool_)
        for name, bad, rows, texts in self.faults:
            chosen = good[bad]
            here = np.flatnonzero(bad)[chosen]
            told = [text for text, first in zip(texts or [], chosen, strict=True) if first]
            reason = f"malformed {name}: the contract is left out"
            notes.tables.append(failed(rows[here], name, told, reason, notes.source))
            good[here] = False
        return good

    def taken(self, good: Bools) -> _Judged:
        """Some of them."""
        found = _Judged.__new__(_Judged)
        found.pairs, found.faults = self.pairs.taken(good), []
        found.future, found.option = self.future.filter(good), self.option.filter(good)
        found.right, found.strikes = self.right[good], self.strikes[:, good]
        found.strike, found.price = self.strike[good], self.price[good]
        return found

    def suffixes(self) -> tuple[Ints, list[str]]:
        """[contract] the end of its id as a code, and the ends: right and strike of options."""
        top, bottom, minus = self.strikes
        kinds, which = np.unique(bottom, return_inverse=True)
        key = (top * 8 + minus * 4 + self.right) * len(kinds) + which
        found, codes = np.unique(key, return_inverse=True)
        first = np.zeros(len(found), dtype=np.int64)
        first[codes[::-1]] = np.arange(len(codes))[::-1]
        strikes = shown(top[first], bottom[first], minus[first].astype(np.bool_))
        rights = self.right[first]
        ends = [
            f":{_RIGHTS[right]}:{strike}" if right else ""
            for right, strike in zip(rights.tolist(), strikes.to_list(), strict=True)
        ]
        return codes.astype(np.int64), ends


def _quotations(quotations: list[Quotation]) -> Ints:
    """[locator or alignment, family] of some quotations."""
    rows = [(one.locator, one.alignment) for one in quotations]
    return np.array(rows, dtype=np.int64).reshape(-1, 2).T


def _joined(prefixes: list[str], prefix: Ints, suffixes: list[str], suffix: Ints) -> pl.Series:
    parts = pl.DataFrame(
        {"prefix": spread(prefix, prefixes), "suffix": spread(suffix, suffixes)},
        schema={"prefix": pl.String, "suffix": pl.String},
    )
    return parts.select(pl.concat_str("prefix", "suffix").alias("contract_id"))["contract_id"]


def _once(found: Found, notes: Notes) -> Found:
    """Of contracts with one id only the first, which is refused: nobody can say which is meant."""
    ids = found.contracts["contract_id"]
    twice = ids.is_duplicated()
    if not twice.any():
        return found
    first = ids.is_first_distinct()
    later = found.contracts.filter(~first)
    reason = "a contract of this id is in the file before: both are refused"
    rows: NDArray[np.int64] = later["row"].to_numpy()
    notes.tables.append(failed(rows, "contract", later["contract_id"], reason, notes.source))
    said = pl.lit("the file has several contracts of this id")
    contracts = found.contracts.with_columns(
        pl.when(twice).then(said).otherwise(pl.col("refused")).alias("refused")
    )
    keep = first.to_numpy()
    return Found(
        contracts.filter(first),
        found.arrays[keep],
        found.under.filter(first),
        found.series,
        found.of_series[keep],
    )
