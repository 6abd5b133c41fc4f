"""Add-ons of all calculations at once: fixed amounts, shares of notionals, multipliers.

A notional factor (percent) applies to the sum of the Notional rows of its product, the qualifier:
signed, so that opposite rows offset and a negative sum takes off margin. A multiplier m adds
(m - 1) x the margin of the product class that is its qualifier.

One calculation takes one factor per product and one multiplier per product class. Equal ones are
the same; where they differ the largest counts, and that they differ is a failure. What a
regulation's own rows say goes before what SEC takes over with the rows of CFTC.

Source: ISDA SIMM methodology, "Additional initial margin".
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.crif import MODELS, PRODUCT_CLASSES, Bools, Codes, Crif, Floats
from gpu_margin.models.simm.problems import Problems, no_problems, problems, together
from gpu_margin.models.simm.regulations import Calculations, named_by_itself
from gpu_margin.models.simm.segments import runs

SIMM = MODELS.index("SIMM")

FIXED = "Param_AddOnFixedAmount"
FACTOR = "Param_AddOnNotionalFactor"
MULTIPLIER = "Param_ProductClassMultiplier"
NOTIONAL = "Notional"
RISK_TYPES = (FIXED, FACTOR, MULTIPLIER, NOTIONAL)

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class AddOns:
    """[calculation] `fixed` and `notional` in USD; [calculation, product class] `multiplier`."""

    fixed: Floats
    notional: Floats
    multiplier: Floats
    problems: Problems


@dataclass(frozen=True)
class _Entries:
    """[entry] of one risk type: row, calculation, qualifier (a place among all), amount."""

    row: Codes
    calculation: Codes
    qualifier: Ints
    amount: Floats
    own: Bools

    def of(self, chosen: Ints | Bools) -> _Entries:
        """[of chosen] these entries."""
        return _Entries(*(getattr(self, field.name)[chosen] for field in fields(self)))


def add_ons(crif: Crif, calculations: Calculations) -> AddOns:
    """The add-ons of every calculation; multipliers are 1 where none is given."""
    count = len(calculations)
    qualifiers, found = _found(crif, calculations)
    multiplier = np.ones((count, len(PRODUCT_CLASSES)))
    if not found:
        return AddOns(np.zeros(count), np.zeros(count), multiplier, no_problems(crif))
    factors, unlike_factors = _one_each(crif, found[FACTOR])
    scales, unlike_scales = _one_each(crif, found[MULTIPLIER])
    place = _class_places(qualifiers)[scales.qualifier]
    known = place >= 0
    multiplier[scales.calculation[known], place[known]] = scales.amount[known]
    return AddOns(
        fixed=_sums(found[FIXED], found[FIXED].calculation, count),
        notional=_shares(found[NOTIONAL], factors, len(qualifiers), count),
        multiplier=multiplier,
        problems=together(
            unlike_factors, unlike_scales, _unknown(crif, scales.of(~known), qualifiers)
        ),
    )


def _found(crif: Crif, calculations: Calculations) -> tuple[list[str], dict[str, _Entries]]:
    """Qualifiers in byte order, and the entries of each risk type; nothing where there are none."""
    types = crif.factors["risk_type"]
    relevant = np.array(types.is_in(RISK_TYPES))
    rows = relevant[crif.factor] & (crif.model == SIMM)
    if not rows.any():
        return [], {}
    row = calculations.rows()
    entry = np.flatnonzero(rows[row])
    row, calculation = row[entry], calculations.calculation[entry]
    texts = crif.factors["qualifier"].to_list()
    kinds, used = types.to_list(), np.unique(crif.factor[row]).tolist()
    qualifiers = sorted({texts[code] for code in used})
    place_of = {text: place for place, text in enumerate(qualifiers)}
    kind, place = (np.full(len(texts), -1, dtype=np.int64) for _ in range(2))
    kind[used] = [RISK_TYPES.index(kinds[code]) for code in used]
    place[used] = [place_of[texts[code]] for code in used]
    factor = crif.factor[row]
    own = named_by_itself(crif, calculations, entry)
    every = _Entries(row, calculation, place[factor], crif.amount[row], own)
    kinds_found = kind[factor]
    return qualifiers, {name: every.of(kinds_found == code) for code, name in enumerate(RISK_TYPES)}


def _one_each(crif: Crif, entries: _Entries) -> tuple[_Entries, Problems]:
    """One entry per calculation and qualifier, and where others that are as good differ."""
    order = np.lexsort((-entries.amount, ~entries.own, entries.qualifier, entries.calculation))
    entries = entries.of(order)
    first = runs(entries.calculation, entries.qualifier)
    best = entries.of(first.first).of(first.owner)
    unlike = (entries.own == best.own) & (entries.amount != best.amount)
    return entries.of(first.first), _problems(
        crif,
        entries.of(unlike),
        "differs from the portfolio's other one, which is larger and counts",
    )


def _sums(entries: _Entries, key: NDArray[np.integer], count: int) -> Floats:
    """[key] sums of amounts, in order of amount."""
    order = np.lexsort((entries.amount, key))
    sums = np.bincount(key[order], weights=entries.amount[order], minlength=count)
    return sums.astype(np.float64)


def _shares(notionals: _Entries, factors: _Entries, width: int, count: int) -> Floats:
    """[calculation] sum over products, in byte order, of percent x signed sum of notionals."""
    product = factors.calculation.astype(np.int64) * width + factors.qualifier
    named = notionals.calculation.astype(np.int64) * width + notionals.qualifier
    # The factors are in order of calculation and product.
    place = np.searchsorted(product, named)
    charged = np.append(product, -1)[place] == named
    notional = _sums(notionals.of(charged), place[charged], len(product))
    share = factors.amount * notional / 100.0
    return np.bincount(factors.calculation, weights=share, minlength=count).astype(np.float64)


def _class_places(qualifiers: list[str]) -> Ints:
    """[qualifier] place in `PRODUCT_CLASSES`, or -1."""
    known = {name: place for place, name in enumerate(PRODUCT_CLASSES)}
    return np.array([known.get(text, -1) for text in qualifiers], dtype=np.int64)


def _unknown(crif: Crif, entries: _Entries, qualifiers: list[str]) -> Problems:
    reason = f"is not of one of the product classes {', '.join(PRODUCT_CLASSES)}"
    return _problems(crif, entries, reason)


def _problems(crif: Crif, entries: _Entries, reason: str) -> Problems:
    """One problem per parameter row, which `reason` says what of."""
    factor = pl.Series(crif.factor[entries.row])
    kind, qualifier = (crif.factors[name].gather(factor) for name in ("risk_type", "qualifier"))
    value = qualifier + ": " + pl.Series(entries.amount).cast(pl.String)
    return problems(crif, crif.portfolio[entries.row], kind + " " + reason, "amount", value)
