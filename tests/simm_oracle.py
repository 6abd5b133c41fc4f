"""A slow SIMM calculator in plain loops, written from the method note alone, to check the engine.

`margins(rows, version, horizon, currency)` gives USD per side and level; a level is
(product class, risk class, margin type), with "All" for what is summed or joined over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from math import fsum, sqrt
from statistics import NormalDist
from typing import NamedTuple

from simm_case import Level, Row
from simm_oracle_joins import Factor, apart, joined, rho_of, root, weighed
from simm_oracle_tables import (
    KINDS,
    OF_CURRENCIES,
    OVER_TENORS,
    WITH_LABEL2,
    WITHOUT_LABELS,
    Tables,
    pair_of,
)

SIDES = ("Call", "Post")
NORMAL = NormalDist()


class Sensitivity(NamedTuple):
    """A netted sensitivity, in USD per the unit of its risk type."""

    kind: str
    qualifier: str
    bucket: str
    tenor: str
    label2: str
    amount: float


# ---------------------------------------------------------------- rows


def usd(row: Row) -> float:
    """The amount in USD; a plain number has no currency."""
    if row.get("AmountUSD", "") != "":
        return float(row["AmountUSD"])
    if row.get("AmountCurrency", "") not in ("", "USD"):
        raise ValueError(f"no amount in USD: {row}")
    return float(row["Amount"])


def qualifier_of(row: Row) -> str:
    qualifier = row.get("Qualifier", "")
    if row["RiskType"] == "Risk_FXVol":
        return "".join(pair_of(qualifier))
    return qualifier.upper() if KINDS[row["RiskType"]][0] in OF_CURRENCIES else qualifier


def netted(rows: Iterable[Row]) -> list[Sensitivity]:
    """Rows of equal keys summed, in order of their keys."""
    sums: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for row in rows:
        kind = row["RiskType"]
        currencies = KINDS[kind][0] in OF_CURRENCIES or kind == "Risk_BaseCorr"
        bucket = "" if currencies else row.get("Bucket", "")
        tenor = "" if kind in WITHOUT_LABELS else row.get("Label1", "").lower()
        label2 = row.get("Label2", "") if kind in WITH_LABEL2 else ""
        sums[kind, qualifier_of(row), bucket, tenor, label2].append(usd(row))
    return [Sensitivity(*key, amount=fsum(amounts)) for key, amounts in sorted(sums.items())]


def days(tenor: str) -> float:
    """A vol tenor in days: a month is a twelfth of 365."""
    return float(tenor[:-1]) * {"w": 7.0, "m": 365.0 / 12.0, "y": 365.0}[tenor[-1]]


# ---------------------------------------------------------------- delta


def bucket_of(risk_class: str, sensitivity: Sensitivity) -> str:
    """A currency is a bucket of interest rates; foreign exchange has a single one."""
    if risk_class == "InterestRate":
        return sensitivity.qualifier
    return "" if risk_class == "FX" else sensitivity.bucket


def threshold_key(tables: Tables, risk_class: str, kind: str, bucket: str, name: str) -> str:
    if risk_class == "InterestRate":
        return tables.group("InterestRate", "concentration", name)
    if kind == "Risk_FXVol":
        pair = sorted(tables.group("FX", "concentration", currency) for currency in pair_of(name))
        return str(["11", "12", "13", "22", "23", "33"].index("".join(pair)) + 1)
    return tables.group("FX", "concentration", name) if risk_class == "FX" else bucket


def concentration(tables: Tables, total: float, threshold: float) -> float:
    return max(1.0, sqrt(abs(total) / threshold)) if tables.horizon == "10d" else 1.0


def concentrations(
    tables: Tables, risk_class: str, margin: str, amounts: list[Sensitivity]
) -> dict[tuple[str, str], float]:
    """(bucket, qualifier) -> concentration factor, of all but cross-currency basis."""
    sums: dict[tuple[str, str], list[float]] = defaultdict(list)
    keys: dict[tuple[str, str], str] = {}
    for s in amounts:
        if s.kind != "Risk_XCcyBasis":
            place = (s.bucket, s.qualifier)
            sums[place].append(s.amount)
            keys[place] = threshold_key(tables, risk_class, s.kind, s.bucket, s.qualifier)
    return {
        place: concentration(
            tables, fsum(sums[place]), tables.threshold(risk_class, margin, keys[place])
        )
        for place in sums
    }


def delta_weight(tables: Tables, risk_class: str, s: Sensitivity) -> float:
    if s.kind == "Risk_Inflation":
        return tables.weight(risk_class, "Inflation")
    if s.kind == "Risk_XCcyBasis":
        return tables.weight(risk_class, "XCcyBasis")
    if risk_class == "FX":
        return tables.fx_weight(tables.currency, s.qualifier)
    if risk_class == "InterestRate":
        group = tables.group("InterestRate", "rw", s.qualifier)
        return tables.raw[risk_class]["risk_weights"][tables.horizon]["Delta"][group][s.tenor]
    return tables.weight(risk_class, "Delta", s.bucket)


def delta(tables: Tables, risk_class: str, sensitivities: list[Sensitivity]) -> float:
    held = [
        s for s in sensitivities if not (s.kind == "Risk_FX" and s.qualifier == tables.currency)
    ]
    crs = concentrations(tables, risk_class, "Delta", held)
    factors = []
    for s in held:
        cr = 1.0 if s.kind == "Risk_XCcyBasis" else crs[s.bucket, s.qualifier]
        value = delta_weight(tables, risk_class, s) * s.amount * cr
        bucket = bucket_of(risk_class, s)
        factors.append(Factor(s.kind, bucket, s.qualifier, s.tenor, s.label2, value, cr))
    return weighed(tables, risk_class, factors)


def base_correlation(tables: Tables, sensitivities: list[Sensitivity]) -> float:
    weight = tables.weight("CreditQualifying", "BaseCorrelation")
    rho = tables.correlation("CreditQualifying", "BaseCorrelation")
    factors = [
        Factor(s.kind, "", s.qualifier, "", "", weight * s.amount, 1.0) for s in sensitivities
    ]
    return joined(factors, lambda one, other: rho, lambda one, other: 0.0)


# ---------------------------------------------------------------- vega and curvature


def sigma(tables: Tables, risk_class: str, s: Sensitivity) -> float:
    """Volatility of a factor: interest rate and credit sensitivities carry theirs."""
    if risk_class not in OVER_TENORS:
        return 1.0
    if risk_class == "FX":
        weight = tables.fx_weight(*pair_of(s.qualifier))
    else:
        weight = tables.weight(risk_class, "Delta", s.bucket)
    horizon = 14.0 if tables.horizon == "10d" else 1.4
    return weight * sqrt(365.0 / horizon) / NORMAL.inv_cdf(0.99)


def over_tenors(risk_class: str, amounts: list[Sensitivity]) -> list[Sensitivity]:
    """Amounts netted over tenors where vega and curvature are."""
    sums: dict[Sensitivity, list[float]] = defaultdict(list)
    for s in amounts:
        netting = risk_class in OVER_TENORS or s.kind == "Risk_InflationVol"
        key = s._replace(tenor="" if netting else s.tenor, amount=0.0)
        sums[key].append(s.amount)
    return [key._replace(amount=fsum(terms)) for key, terms in sums.items()]


def vega(tables: Tables, risk_class: str, sensitivities: list[Sensitivity]) -> float:
    ratio = tables.hvr(risk_class) if risk_class in OVER_TENORS else 1.0
    at_risk = over_tenors(
        risk_class,
        [s._replace(amount=ratio * sigma(tables, risk_class, s) * s.amount) for s in sensitivities],
    )
    crs = concentrations(tables, risk_class, "Vega", at_risk)
    factors = []
    for s in at_risk:
        cr = crs[s.bucket, s.qualifier]
        value = tables.weight(risk_class, "Vega", s.bucket) * s.amount * cr
        bucket = bucket_of(risk_class, s)
        factors.append(Factor(s.kind, bucket, s.qualifier, s.tenor, s.label2, value, cr))
    return weighed(tables, risk_class, factors)


def scaling(tables: Tables, tenor: str) -> float:
    return 0.5 * min(1.0, (14.0 if tables.horizon == "10d" else 1.4) / days(tenor))


def curvature(
    tables: Tables, risk_class: str, sensitivities: list[Sensitivity], sign: float
) -> float:
    at_risk = over_tenors(
        risk_class,
        [
            s._replace(
                amount=sign * scaling(tables, s.tenor) * sigma(tables, risk_class, s) * s.amount
            )
            for s in sensitivities
            if not (risk_class == "Equity" and s.bucket == "12")
        ],
    )
    factors = [
        Factor(s.kind, bucket_of(risk_class, s), s.qualifier, s.tenor, s.label2, s.amount, 1.0)
        for s in at_risk
    ]
    margin = fsum(curved(tables, risk_class, part) for part in apart(factors))
    return margin / tables.hvr(risk_class) ** 2 if risk_class == "InterestRate" else margin


def curved(tables: Tables, risk_class: str, factors: list[Factor]) -> float:
    """Curvature margin of the buckets, or of the residual."""
    total = fsum(factor.value for factor in factors)
    gross = fsum(abs(factor.value) for factor in factors)
    if gross == 0.0:
        return 0.0
    theta = min(total / gross, 0.0)
    tail = NORMAL.inv_cdf(0.995) ** 2 - 1.0
    spread = joined(
        factors,
        lambda one, other: rho_of(tables, risk_class, one, other) ** 2,
        lambda one, other: tables.between(risk_class, one, other) ** 2,
    )
    return max(total + (tail * (1.0 + theta) - theta) * spread, 0.0)


# ---------------------------------------------------------------- levels


def risk_class_margins(
    tables: Tables, risk_class: str, rows: list[Row], sign: float
) -> dict[str, float]:
    """Margin type -> USD."""
    held: dict[str, list[Sensitivity]] = defaultdict(list)
    for s in netted(rows):
        held[KINDS[s.kind][1]].append(s)
    found = {}
    if held["Delta"]:
        found["Delta"] = delta(tables, risk_class, held["Delta"])
    if held["Vega"]:
        found["Vega"] = vega(tables, risk_class, held["Vega"])
        found["Curvature"] = curvature(tables, risk_class, held["Vega"], sign)
    if held["BaseCorr"]:
        found["BaseCorr"] = base_correlation(tables, held["BaseCorr"])
    found["All"] = fsum(found.values())
    return found


def across_risk_classes(tables: Tables, margins: dict[str, float]) -> float:
    return root(
        fsum(
            tables.psi(one, other) * margins[one] * margins[other]
            for one in margins
            for other in margins
        )
    )


def product_class_levels(
    tables: Tables, product: str, rows: list[Row], multiplier: float, sign: float
) -> dict[Level, float]:
    of_class: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_class[KINDS[row["RiskType"]][0]].append(row)
    margins = {c: risk_class_margins(tables, c, held, sign) for c, held in of_class.items()}
    levels = {(product, c, m): found[m] for c, found in margins.items() for m in found}
    for margin in sorted({m for found in margins.values() for m in found}):
        by_class = {c: found[margin] for c, found in margins.items() if margin in found}
        levels[product, "All", margin] = across_risk_classes(tables, by_class)
    added = (multiplier - 1.0) * levels[product, "All", "All"]
    if multiplier != 1.0:
        levels[product, "All", "AdditionalIM"] = added
        levels[product, "All", "All"] += added
    return levels


def add_on_levels(rows: list[Row]) -> dict[Level, float]:
    """Fixed amounts, and percent of notional."""
    fixed = [usd(row) for row in rows if row["RiskType"] == "Param_AddOnFixedAmount"]
    notionals: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["RiskType"] == "Notional":
            notionals[row["Qualifier"]].append(usd(row))
    percents = numbers(rows, "Param_AddOnNotionalFactor")
    shares = [percent / 100.0 * fsum(notionals[name]) for name, percent in percents.items()]
    levels: dict[Level, float] = {}
    for name, amounts in (("AddOnFixedAmount", fixed), ("AddOnNotionalFactor", shares)):
        if amounts:
            levels[name, "All", "AdditionalIM"] = levels[name, "All", "All"] = fsum(amounts)
    return levels


def numbers(rows: list[Row], kind: str) -> dict[str, float]:
    """Qualifier -> the plain number of a parameter row, of which there may be but one."""
    found: dict[str, float] = {}
    for row in rows:
        if row["RiskType"] == kind:
            number = float(row["Amount"])
            if found.setdefault(row["Qualifier"], number) != number:
                raise ValueError(f"another {kind} of {row['Qualifier']}: {row}")
    return found


def summed(levels: dict[Level, float]) -> dict[Level, float]:
    """The levels and the sums over product classes."""
    sums: dict[Level, list[float]] = defaultdict(list)
    for (_, risk_class, margin), amount in levels.items():
        sums["All", risk_class, margin].append(amount)
    sums.setdefault(("All", "All", "All"), [0.0])
    return levels | {level: fsum(terms) for level, terms in sums.items()}


def side_levels(tables: Tables, rows: list[Row], sign: float) -> dict[Level, float]:
    of_product: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["RiskType"] in KINDS:
            of_product[row["ProductClass"]].append(row)
    multipliers = numbers(rows, "Param_ProductClassMultiplier")
    levels = add_on_levels(rows)
    for product, held in of_product.items():
        multiplier = multipliers.get(product, 1.0)
        levels |= product_class_levels(tables, product, held, multiplier, sign)
    return summed(levels)


def margins(
    rows: Iterable[Row], version: str, horizon: str, currency: str = "USD"
) -> dict[str, dict[Level, float]]:
    """Side -> level -> USD, of one portfolio's SIMM rows; amounts must be in USD."""
    held = [row for row in rows if row.get("IMModel", "") in ("", "SIMM")]
    levels = partial(side_levels, Tables(version, horizon, currency), held)
    return {"Call": levels(1.0), "Post": levels(-1.0)}
