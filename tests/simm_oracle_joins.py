"""How the slow oracle joins weighted factors: correlations, buckets, the residual outside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from math import fsum, sqrt
from typing import NamedTuple

from simm_oracle_tables import Tables


class Factor(NamedTuple):
    """A weighted sensitivity (or CVR) with its concentration factor."""

    kind: str
    bucket: str
    name: str
    tenor: str
    label2: str
    value: float
    concentration: float


Pair = Callable[[Factor, Factor], float]
Buckets = Callable[[str, str], float]


def root(total: float) -> float:
    return sqrt(max(total, 0.0))


def quadratic(factors: list[Factor], rho: Pair) -> float:
    """Sum over all pairs of rho times both values."""
    terms = [factor.value**2 for factor in factors]
    for k, one in enumerate(factors):
        for other in factors[:k]:
            terms.append(2.0 * rho(one, other) * one.value * other.value)
    return fsum(terms)


def joined(factors: list[Factor], rho: Pair, gamma: Buckets) -> float:
    """Root over all buckets: K_b within, S_b clamped to +-K_b across."""
    of_bucket: dict[str, list[Factor]] = defaultdict(list)
    for factor in factors:
        of_bucket[factor.bucket].append(factor)
    inside = {bucket: root(quadratic(held, rho)) for bucket, held in of_bucket.items()}
    total = {bucket: fsum(f.value for f in held) for bucket, held in of_bucket.items()}
    across = {b: max(min(total[b], inside[b]), -inside[b]) for b in of_bucket}
    terms = [k**2 for k in inside.values()]
    for one in of_bucket:
        for other in of_bucket:
            if one != other:
                terms.append(gamma(one, other) * across[one] * across[other])
    return root(fsum(terms))


def apart(factors: list[Factor]) -> tuple[list[Factor], list[Factor]]:
    """Factors of the buckets, and of the residual."""
    residual = [factor for factor in factors if factor.bucket == "Residual"]
    return [factor for factor in factors if factor.bucket != "Residual"], residual


def with_residual(factors: list[Factor], rho: Pair, gamma: Buckets) -> float:
    """The root over the buckets, and the residual outside of it."""
    buckets, residual = apart(factors)
    return joined(buckets, rho, gamma) + joined(residual, rho, gamma)


def likeness(one: float, other: float) -> float:
    return min(one, other) / max(one, other)


def same_name(risk_class: str, one: Factor, other: Factor) -> bool:
    if risk_class == "CreditNonQualifying":
        return one.label2 == other.label2
    return one.name == other.name


def rho_of(tables: Tables, risk_class: str, one: Factor, other: Factor) -> float:
    """Correlation of two different factors of one bucket, without concentration."""
    if risk_class == "InterestRate":
        return rho_of_rates(tables, one, other)
    if risk_class == "FX":
        if one.kind == "Risk_FXVol":
            return tables.correlation("FX", "Volatility")
        return tables.fx_correlation(one.name, other.name)
    found = tables.correlation(risk_class, "IntraBucket")
    if "aggregate" in found:
        found = found["residual" if one.bucket == "Residual" else "aggregate"]
        return found["same" if same_name(risk_class, one, other) else "different"]
    return found[one.bucket]


def rho_of_rates(tables: Tables, one: Factor, other: Factor) -> float:
    kinds = {one.kind, other.kind}
    if "Risk_XCcyBasis" in kinds:
        return tables.correlation("InterestRate", "XCcyBasis")
    if kinds & {"Risk_Inflation", "Risk_InflationVol"}:
        return tables.correlation("InterestRate", "Inflation")
    sub_curve = tables.correlation("InterestRate", "SubCurves")
    same = one.label2 == other.label2
    return tables.tenors(one.tenor, other.tenor) * (1.0 if same else sub_curve)


def weighed(tables: Tables, risk_class: str, factors: list[Factor]) -> float:
    """Delta or vega margin of factors that carry their weights.

    Concentration is of names for all but interest rates, where it is of currencies.
    """
    rates = risk_class == "InterestRate"
    of_bucket: dict[str, float] = defaultdict(lambda: 1.0)
    for factor in factors:
        of_bucket[factor.bucket] = max(of_bucket[factor.bucket], factor.concentration)

    def rho(one: Factor, other: Factor) -> float:
        alike = 1.0 if rates else likeness(one.concentration, other.concentration)
        return alike * rho_of(tables, risk_class, one, other)

    def gamma(one: str, other: str) -> float:
        alike = likeness(of_bucket[one], of_bucket[other]) if rates else 1.0
        return alike * tables.between(risk_class, one, other)

    return with_residual(factors, rho, gamma)
