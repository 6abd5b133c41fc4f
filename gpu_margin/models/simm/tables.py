"""The figures of SIMM: one table per version, all of one shape, checked when they are read.

A sensitivity is USD per basis point (interest rates, inflation, cross-currency basis, credit) or
USD per percent (equity, commodity, FX, base correlation); a delta weight is the move it is weighted
by, in that unit. Vega and its weights: vega times volatility in USD, and plain numbers.

Source: ISDA SIMM methodology, versions 2.2 to 2.8+2512. The figures are (c) ISDA, and commercial
use needs ISDA's licence; each file says where it was read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from gpu_margin.failures import ConfigError
from gpu_margin.models.simm.kinds import HORIZONS, RISK_CLASSES
from gpu_margin.settings import Settings

LATEST = "latest"
OTHER = "Other"
RESIDUAL = "Residual"
# Risk classes whose figures go by bucket; interest rates and FX go by groups of currencies.
BUCKETED = ("CreditQualifying", "CreditNonQualifying", "Equity", "Commodity")
# Historical volatility ratios: there is none for credit.
_WITH_RATIO = ("InterestRate", "Equity", "Commodity", "FX")
_THRESHOLDS = ("Delta", "Vega")
_FX_VEGA_KEYS = ("1", "2", "3", "4", "5", "6")

_PREFIX, _SUFFIX = "simm_", ".json"


def _symmetric(matrix: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
    if any(len(row) != len(matrix) for row in matrix):
        raise ValueError(
            f"not square: {len(matrix)} rows of {sorted({len(row) for row in matrix})}"
        )
    if tuple(zip(*matrix, strict=True)) != matrix:
        raise ValueError("not symmetric")
    return matrix


def _unit_diagonal(matrix: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
    if any(row[place] != 1.0 for place, row in enumerate(matrix)):
        raise ValueError("a diagonal entry is not 1")
    return matrix


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Correlation = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Matrix = Annotated[
    tuple[tuple[Correlation, ...], ...], AfterValidator(_symmetric), AfterValidator(_unit_diagonal)
]
TwoByTwo = tuple[tuple[Correlation, Correlation], tuple[Correlation, Correlation]]
FxWeights = tuple[tuple[Positive, Positive], tuple[Positive, Positive]]
Groups = Mapping[str, tuple[str, ...]]
ByBucket = Mapping[str, Mapping[str, Positive]]


def _same_keys(what: str, found: Mapping[str, object], wanted: tuple[str, ...]) -> None:
    if set(found) != set(wanted):
        raise ValueError(f"{what} has {', '.join(found)} where {', '.join(wanted)} are wanted")


class Weights(Settings):
    """Risk weights of one horizon. Units: see the module.

    `ir_delta`: group of currencies "1" (regular volatility), "2" (low), "3" (high) -> [tenor].
    `delta`, `vega`: risk class in `BUCKETED` -> bucket -> weight. `fx_delta` [group][group]: of the
    calculation currency and of the currency, or of a pair's two; places as `fx_group` gives them.
    `hvr`: historical volatility ratios of InterestRate, Equity, Commodity and FX.
    """

    ir_delta: Mapping[str, tuple[Positive, ...]]
    inflation: Positive
    xccy: Positive
    ir_vega: Positive
    base_corr: Positive
    fx_delta: FxWeights
    fx_vega: Positive
    hvr: Mapping[str, Positive]
    delta: ByBucket
    vega: ByBucket

    @model_validator(mode="after")
    def _whole(self) -> Weights:
        _same_keys("hvr", self.hvr, _WITH_RATIO)
        _same_keys("delta", self.delta, BUCKETED)
        _same_keys("vega", self.vega, BUCKETED)
        _symmetric(self.fx_delta)
        return self

    @property
    def ir_hvr(self) -> float:
        """The historical volatility ratio of interest rates."""
        return self.hvr["InterestRate"]


class Correlations(Settings):
    """Correlations within and between buckets.

    `ir_tenor` [tenor, tenor]; `sub_curve` is between curves of one currency, `ir_outer` between
    currencies. `fx` [group of the calculation currency][group][group] is between two different
    currencies, so that its diagonal is not 1; `fx_vega` between two pairs. `within`: bucket ->
    (same name, another name); equity and commodity net one name, which leaves them 1 there.
    `between` [bucket, bucket]: in the order of `SimmTables.between`.
    """

    ir_tenor: Matrix
    sub_curve: Correlation
    inflation: Correlation
    xccy: Correlation
    ir_outer: Correlation
    base_corr: Correlation
    fx: tuple[TwoByTwo, TwoByTwo]
    fx_vega: Correlation
    within: Mapping[str, Mapping[str, tuple[Correlation, Correlation]]]
    between: Mapping[str, Matrix]

    @model_validator(mode="after")
    def _whole(self) -> Correlations:
        _same_keys("within", self.within, BUCKETED)
        _same_keys("between", self.between, BUCKETED)
        for table in self.fx:
            _symmetric(table)
        return self


class Currencies(Settings):
    """Groups of currencies; the group with "Other" has all that no group names."""

    ir: Groups
    ir_concentration: Groups
    fx: Groups
    fx_concentration: Groups

    @model_validator(mode="after")
    def _whole(self) -> Currencies:
        _same_keys("ir", self.ir, ("1", "2", "3"))
        _same_keys("fx", self.fx, ("1", "2"))
        _same_keys("fx_concentration", self.fx_concentration, ("1", "2", "3"))
        for groups in (self.ir, self.ir_concentration, self.fx, self.fx_concentration):
            names = sorted(name for group in groups.values() for name in group)
            if names.count(OTHER) != 1 or any(one == other for one, other in pairwise(names)):
                raise ValueError(f"a currency twice, or not one {OTHER!r}, in {names}")
        return self


class SimmTables(Settings):
    """All figures of one version of SIMM. `at`, `within`, `between` and `threshold` give the parts.

    Ten-day and one-day weights are in `at("10d")` and `at("1d")`; everything else holds for both.
    `risk_class_correlation` is in the order of `RISK_CLASSES`.
    """

    version: str
    effective_date: date
    source: str
    tenors: tuple[str, ...]
    currencies: Currencies
    weights: Mapping[str, Weights]
    risk_class_correlation: Matrix
    correlations: Correlations
    thresholds: Mapping[str, Mapping[str, Mapping[str, Positive]]]

    @model_validator(mode="after")
    def _whole(self) -> SimmTables:
        _same_keys("weights", self.weights, HORIZONS)
        _same_keys("thresholds", self.thresholds, RISK_CLASSES)
        for risk_class, measures in self.thresholds.items():
            _same_keys(f"thresholds of {risk_class}", measures, _THRESHOLDS)
        for risk_class in BUCKETED:
            self._check_buckets(risk_class)
        self._check_groups()
        self._check_sizes()
        return self

    def _check_buckets(self, risk_class: str) -> None:
        buckets = tuple(self.at(HORIZONS[0]).delta[risk_class])
        for horizon, weights in self.weights.items():
            _same_keys(f"{horizon} delta of {risk_class}", weights.delta[risk_class], buckets)
            _same_keys(f"{horizon} vega of {risk_class}", weights.vega[risk_class], buckets)
        _same_keys(f"within {risk_class}", self.within(risk_class), buckets)
        for measure in _THRESHOLDS:
            found = self.threshold(risk_class, measure)
            _same_keys(f"{measure} thresholds of {risk_class}", found, buckets)
        names, matrix = self.between(risk_class)
        if len(matrix) != len(names):
            raise ValueError(
                f"between {risk_class} has {len(matrix)} rows for {len(names)} buckets"
            )

    def _check_groups(self) -> None:
        for weights in self.weights.values():
            _same_keys("ir_delta", weights.ir_delta, tuple(self.currencies.ir))
        fx = tuple(self.currencies.fx_concentration)
        _same_keys("FX delta thresholds", self.threshold("FX", "Delta"), fx)
        _same_keys("FX vega thresholds", self.threshold("FX", "Vega"), _FX_VEGA_KEYS)
        for measure in _THRESHOLDS:
            found = self.threshold("InterestRate", measure)
            _same_keys(f"IR {measure} thresholds", found, tuple(self.currencies.ir_concentration))

    def _check_sizes(self) -> None:
        sizes = {len(row) for weights in self.weights.values() for row in weights.ir_delta.values()}
        if sizes | {len(self.correlations.ir_tenor)} != {len(self.tenors)}:
            raise ValueError(f"figures by tenor are not {len(self.tenors)} each")
        if len(self.risk_class_correlation) != len(RISK_CLASSES):
            raise ValueError(f"risk_class_correlation is not {len(RISK_CLASSES)} by as many")

    def at(self, horizon: str) -> Weights:
        """Risk weights at a horizon, "10d" or "1d"; `KeyError` for any other."""
        return self.weights[horizon]

    def within(self, risk_class: str) -> Mapping[str, tuple[float, float]]:
        """Bucket -> correlations (same name, another name), for a risk class in `BUCKETED`."""
        return self.correlations.within[risk_class]

    def between(self, risk_class: str) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]:
        """Buckets without "Residual", and their correlations [bucket, bucket], in that order."""
        buckets = self.at(HORIZONS[0]).delta[risk_class]
        names = tuple(bucket for bucket in buckets if bucket != RESIDUAL)
        return names, self.correlations.between[risk_class]

    def threshold(self, risk_class: str, measure: str) -> Mapping[str, float]:
        """Concentration thresholds of "Delta" or "Vega", in USD of the summed sensitivity.

        Keyed by bucket, or by concentration group of currencies for InterestRate and FX; FX vega by
        pair of such groups: "1" to "6" are 1-1, 1-2, 1-3, 2-2, 2-3 and 3-3.
        """
        return self.thresholds[risk_class][measure]

    def ir_group(self, currency: str) -> str:
        """Volatility group of a currency's interest rates, a key of `Weights.ir_delta`."""
        return _group(self.currencies.ir, currency)

    def ir_concentration_group(self, currency: str) -> str:
        """Concentration group of a currency's interest rates, a key of their thresholds."""
        return _group(self.currencies.ir_concentration, currency)

    def fx_group(self, currency: str) -> int:
        """Volatility group of a currency: 0 high, 1 regular (in 2.3, without groups, all are 1)."""
        return int(_group(self.currencies.fx, currency)) - 1

    def fx_concentration_group(self, currency: str) -> str:
        """Concentration group of a currency, "1" to "3", a key of the FX delta thresholds."""
        return _group(self.currencies.fx_concentration, currency)


def _group(groups: Groups, currency: str) -> str:
    for name in (currency, OTHER):
        for group, members in groups.items():
            if name in members:
                return group
    raise KeyError(currency)


def _tables() -> dict[str, Traversable]:
    """Version -> its file."""
    folder = files("gpu_margin") / "parameters" / "simm"
    return {
        table.name.removeprefix(_PREFIX).removesuffix(_SUFFIX): table
        for table in folder.iterdir()
        if table.name.startswith(_PREFIX) and table.name.endswith(_SUFFIX)
    }


@cache
def versions() -> tuple[str, ...]:
    """The known versions of SIMM, the oldest first."""
    dates = {
        version: date.fromisoformat(json.loads(table.read_text("utf-8"))["effective_date"])
        for version, table in _tables().items()
    }
    return tuple(sorted(dates, key=lambda version: (dates[version], version)))


@cache
def load(version: str) -> SimmTables:
    """The figures of a version; "latest" is the one with the newest effective date.

    `ConfigError` where there is no such version.
    """
    if version == LATEST:
        return load(versions()[-1])
    if version not in versions():
        known = ", ".join((*versions(), LATEST))
        raise ConfigError(f"unknown SIMM version {version!r}; known versions: {known}")
    return SimmTables.model_validate_json(_tables()[version].read_text("utf-8"))
