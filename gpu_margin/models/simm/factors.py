"""What a version of SIMM says about every risk factor of a CRIF: its stream, place and weights.

The factors of a batch are few, its rows many: all that depends on the factor is looked up here,
once, and the rest of SIMM is arithmetic on arrays.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import ndtri

from gpu_margin.models.simm.kinds import (
    BASE_CORRELATION,
    BASIS,
    CURVE,
    INFLATION,
    KIND_OF,
    RISK_CLASSES,
    STREAM_OF,
    STREAMS,
    VEGA,
    risk_class,
)
from gpu_margin.models.simm.tables import BUCKETED, RESIDUAL, SimmTables, Weights

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A sensitivity that is no part of SIMM in this calculation.
LEFT_OUT = -1
_NONE = 1.0
_YEAR = 365.0
_QUANTILE = float(ndtri(0.99))
# Of an indexed bucket, whose volatilities have no curvature.
_NO_CURVATURE = "12"


@dataclass(frozen=True)
class Factors:
    """Risk factors in order of stream, bucket and name; all arrays are [factor].

    `place` [factor of the CRIF] is where it stands here, -1 where it has no part; `failed` maps
    those that the version does not know to the field and the reason. `bucket` is the place in the
    stream's buckets, or of the currency; `name` are equal where concentration adds up, `same` where
    correlation is that of one name; `kind` (rates only) is curve, inflation or basis. `weight` is
    the risk weight, `scale` what a sensitivity is multiplied by before it is weighted, `bend`
    before it is curvature, `threshold` the concentration threshold in USD, and `group` (FX only)
    the volatility group of the currency.
    """

    place: Ints
    failed: dict[int, tuple[str, str]]
    stream: Ints
    bucket: Ints
    name: Ints
    same: Ints
    kind: Ints
    tenor: Ints
    weight: Floats
    scale: Floats
    bend: Floats
    threshold: Floats
    group: Ints

    def __len__(self) -> int:
        return len(self.stream)


@dataclass(frozen=True)
class _Factor:
    """One of them, before they have codes; `part` tells those of one name apart."""

    stream: int
    bucket: str
    name: str
    same: str = ""
    part: str = ""
    kind: int = CURVE
    tenor: int = -1
    weight: float = _NONE
    scale: float = _NONE
    bend: float = 0.0
    threshold: float = math.inf
    group: int = 0


# What was looked up last, with the tables of keys that it is of.
_LOOKED_UP: deque[tuple[tuple[str, ...], pl.DataFrame, Factors]] = deque(maxlen=4)


class _Unknown(Exception):
    """The version knows no such thing: which field, and why."""


@dataclass(frozen=True)
class Rules:
    """A version at one horizon: what `factors_of` looks up."""

    tables: SimmTables
    horizon: str
    calculation_currency: str

    @cached_property
    def weights(self) -> Weights:
        """Risk weights of the horizon."""
        return self.tables.at(self.horizon)

    @cached_property
    def buckets(self) -> tuple[Sequence[str], ...]:
        """[stream] buckets without the residual one; none where its risk class has no such."""
        names = [RISK_CLASSES[risk_class(stream)] for stream in range(STREAMS)]
        known: list[Sequence[str]] = [
            self.tables.between(name)[0] if name in BUCKETED else () for name in names
        ]
        known[BASE_CORRELATION] = ()
        return tuple(known)

    @property
    def days(self) -> float:
        """Days of the horizon, as curvature counts them."""
        return 14.0 if self.horizon == "10d" else 1.4

    @property
    def concentrated(self) -> bool:
        """Whether concentration counts: not at the short horizon."""
        return self.horizon == "10d"

    def volatility(self, weight: float) -> float:
        """The volatility that a risk weight, a move at 99%, stands for; per year."""
        return weight * math.sqrt(_YEAR / self.days) / _QUANTILE

    def scaling(self, tenor: str) -> float:
        """How much curvature a vega of this expiry stands for."""
        return 0.5 * min(1.0, self.days / _days_of(tenor))


def _days_of(tenor: str) -> float:
    number, unit = float(tenor[:-1]), tenor[-1]
    return number * {"w": 7.0, "m": _YEAR / 12.0, "y": _YEAR}[unit]


def factors_of(rules: Rules, keys: pl.DataFrame) -> Factors:
    """The factors of a CRIF (`Crif.factors`) under the rules; pieces of one CRIF share them."""
    name = rules.tables.version, rules.horizon, rules.calculation_currency
    for known, of, factors in list(_LOOKED_UP):
        if of is keys and known == name:
            return factors
    factors = _looked_up(rules, keys)
    _LOOKED_UP.append((name, keys, factors))
    return factors


def _looked_up(rules: Rules, keys: pl.DataFrame) -> Factors:
    found: dict[int, _Factor] = {}
    failed: dict[int, tuple[str, str]] = {}
    for number, key in enumerate(keys.iter_rows()):
        try:
            one = _factor(rules, *key)
        except _Unknown as error:
            failed[number] = error.args
            continue
        if one is not None:
            found[number] = one
    # Keys that differ in what does not count are one factor.
    order = sorted(set(found.values()), key=lambda one: _rank(one, rules))
    code = {one: number for number, one in enumerate(order)}
    place = np.full(len(keys), LEFT_OUT, dtype=np.int64)
    for number, one in found.items():
        place[number] = code[one]
    return _arrays(place, failed, order, rules)


def _rank(one: _Factor, rules: Rules) -> tuple[Any, ...]:
    return (one.stream, _bucket(one, rules), one.name, one.kind, one.same, one.part, one.tenor)


def _bucket(one: _Factor, rules: Rules) -> int:
    names = rules.buckets[one.stream]
    return len(names) if one.bucket == RESIDUAL else (names.index(one.bucket) if names else 0)


def _arrays(
    place: Ints, failed: dict[int, tuple[str, str]], found: list[_Factor], rules: Rules
) -> Factors:
    def numbers(name: str) -> Floats:
        return np.array([getattr(one, name) for one in found], dtype=np.float64)

    def codes(of: Callable[[_Factor], Any]) -> Ints:
        """By rank, so that order is that of what they stand for."""
        values = [of(one) for one in found]
        known = {value: code for code, value in enumerate(sorted(set(values)))}
        return np.array([known[value] for value in values], dtype=np.int64)

    def plain(name: str) -> Ints:
        return np.array([getattr(one, name) for one in found], dtype=np.int64)

    rates = {RISK_CLASSES.index("InterestRate"), VEGA + RISK_CLASSES.index("InterestRate")}
    currency = codes(lambda one: one.name if one.stream in rates else "")
    bucket = np.array([_bucket(one, rules) for one in found], dtype=np.int64)
    return Factors(
        place=place,
        failed=failed,
        stream=plain("stream"),
        bucket=np.where(np.isin(plain("stream"), list(rates)), currency, bucket),
        name=codes(lambda one: one.name),
        same=codes(lambda one: one.same),
        kind=plain("kind"),
        tenor=plain("tenor"),
        weight=numbers("weight"),
        scale=numbers("scale"),
        bend=numbers("bend"),
        threshold=numbers("threshold"),
        group=plain("group"),
    )


# ------------------------------------------------------------ one factor


def _factor(
    rules: Rules, risk_type: str, qualifier: str, bucket: str, label1: str, label2: str
) -> _Factor | None:
    stream = STREAM_OF.get(risk_type)
    if stream is None:
        return None
    name = RISK_CLASSES[risk_class(stream)]
    if stream == BASE_CORRELATION:
        return _Factor(stream, "", qualifier, qualifier, weight=rules.weights.base_corr)
    vega = stream >= VEGA
    if name == "InterestRate":
        return (_rate_vega if vega else _rate)(rules, risk_type, stream, qualifier, label1, label2)
    if name == "FX":
        return (_fx_vega if vega else _fx)(rules, stream, qualifier, label1)
    make = partial(_bucketed_vega if vega else _bucketed, rules, stream, name)
    return make(qualifier, _known(rules, stream, bucket), label1, label2)


def _known(rules: Rules, stream: int, bucket: str) -> str:
    weights = rules.weights.delta[RISK_CLASSES[risk_class(stream)]]
    if bucket not in weights:
        known = ", ".join(weights)
        version = rules.tables.version
        raise _Unknown("bucket", f"no bucket of SIMM {version}: use one of {known}")
    return bucket


def _tenor(rules: Rules, label1: str) -> int:
    if label1 not in rules.tables.tenors:
        known = ", ".join(rules.tables.tenors)
        raise _Unknown("label1", f"no tenor: use one of {known}")
    return rules.tables.tenors.index(label1)


def _rate(
    rules: Rules, risk_type: str, stream: int, currency: str, label1: str, label2: str
) -> _Factor:
    weights, tables = rules.weights, rules.tables
    kind = KIND_OF.get(risk_type, CURVE)
    thresholds = tables.threshold("InterestRate", "Delta")
    threshold = thresholds[tables.ir_concentration_group(currency)]
    if kind == INFLATION:
        return _Factor(
            stream, "", currency, "", "", kind, 0, weights.inflation, threshold=threshold
        )
    if kind == BASIS:
        return _Factor(stream, "", currency, "", "", kind, 0, weights.xccy, threshold=threshold)
    tenor = _tenor(rules, label1)
    weight = weights.ir_delta[tables.ir_group(currency)][tenor]
    return _Factor(stream, "", currency, label2, "", kind, tenor, weight, threshold=threshold)


def _rate_vega(
    rules: Rules, risk_type: str, stream: int, currency: str, label1: str, label2: str
) -> _Factor:
    tables, kind = rules.tables, KIND_OF.get(risk_type, CURVE)
    thresholds = tables.threshold("InterestRate", "Vega")
    return _Factor(
        stream,
        "",
        currency,
        "",
        "",
        kind,
        _tenor(rules, label1),
        rules.weights.ir_vega,
        bend=rules.scaling(label1),
        threshold=thresholds[tables.ir_concentration_group(currency)],
    )


def _bucketed(
    rules: Rules, stream: int, name: str, qualifier: str, bucket: str, label1: str, label2: str
) -> _Factor:
    """Credit, equity, commodity."""
    weight = rules.weights.delta[name][bucket]
    threshold = rules.tables.threshold(name, "Delta")[bucket]
    credit = name.startswith("Credit")
    return _Factor(
        stream,
        bucket,
        qualifier,
        label2 if name == "CreditNonQualifying" else qualifier,
        label2 if credit else "",
        tenor=_tenor(rules, label1) if credit else -1,
        weight=weight,
        threshold=threshold,
    )


def _bucketed_vega(
    rules: Rules, stream: int, name: str, qualifier: str, bucket: str, label1: str, label2: str
) -> _Factor:
    weights, tenor = rules.weights, _tenor(rules, label1)
    scale = sigma = 1.0
    if not name.startswith("Credit"):
        sigma = rules.volatility(weights.delta[name][bucket])
        scale = sigma * weights.hvr[name]
    flat = name == "Equity" and bucket == _NO_CURVATURE
    return _Factor(
        stream,
        bucket,
        qualifier,
        label2 if name == "CreditNonQualifying" else qualifier,
        label2 if name.startswith("Credit") else "",
        tenor=tenor,
        weight=weights.vega[name][bucket],
        scale=scale,
        bend=0.0 if flat else rules.scaling(label1) * sigma,
        threshold=rules.tables.threshold(name, "Vega")[bucket],
    )


def _fx(rules: Rules, stream: int, currency: str, label1: str) -> _Factor | None:
    """None for the calculation currency, which is no risk."""
    tables = rules.tables
    if currency == rules.calculation_currency:
        return None
    own, base = tables.fx_group(currency), tables.fx_group(rules.calculation_currency)
    threshold = tables.threshold("FX", "Delta")[tables.fx_concentration_group(currency)]
    weight = rules.weights.fx_delta[base][own]
    return _Factor(stream, "", currency, currency, weight=weight, threshold=threshold, group=own)


def _fx_vega(rules: Rules, stream: int, pair: str, label1: str) -> _Factor:
    tables, weights = rules.tables, rules.weights
    first, second = pair[:3], pair[3:]
    sigma = rules.volatility(weights.fx_delta[tables.fx_group(first)][tables.fx_group(second)])
    categories = sorted(int(tables.fx_concentration_group(one)) for one in (first, second))
    key = _PAIRS[categories[0], categories[1]]
    return _Factor(
        stream,
        "",
        pair,
        pair,
        tenor=_tenor(rules, label1),
        weight=weights.fx_vega,
        scale=sigma * weights.hvr["FX"],
        bend=rules.scaling(label1) * sigma,
        threshold=tables.threshold("FX", "Vega")[key],
    )


_PAIRS = {(1, 1): "1", (1, 2): "2", (1, 3): "3", (2, 2): "4", (2, 3): "5", (3, 3): "6"}
