"""Interest rates: tenors on curves of a currency, inflation and basis beside them, currencies.

Two tenors of one currency are correlated by the tenors, and by phi where they are of two curves.
Over all curves that is phi x the form of their sum + (1 - phi) x the sum of their forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.models.simm.curvature import curvature
from gpu_margin.models.simm.factors import Factors, Rules
from gpu_margin.models.simm.kinds import BASIS, CURVE, INFLATION
from gpu_margin.models.simm.netting import Stream
from gpu_margin.models.simm.segments import Device, Segments, grouped, pair_sums, runs

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Where the entries of a stream stand: on curves of currencies, these in groups."""

    stream: Stream
    factors: Factors

    @cached_property
    def groups(self) -> Segments:
        """Of entries."""
        return runs(self.stream.group)

    @cached_property
    def currencies(self) -> Segments:
        """Of entries."""
        return runs(self.stream.group, self.of("bucket"))

    @cached_property
    def in_groups(self) -> Segments:
        """Of currencies."""
        return self.currencies.within(self.groups)

    def of(self, name: str) -> Any:
        """[entry] what the factors say."""
        return getattr(self.factors, name)[self.stream.factor]

    def entries(self, kind: int) -> tuple[Ints, Segments]:
        """The entries of a kind, and which of these each currency has."""
        chosen = np.flatnonzero(self.of("kind") == kind)
        return chosen, grouped(self.currencies.owner[chosen], len(self.currencies))


@dataclass(frozen=True)
class Correlation:
    """[tenor, tenor], between curves, with inflation, with the basis, between currencies."""

    tenor: Floats
    curves: float
    inflation: float
    basis: float
    outer: float

    def squared(self) -> Correlation:
        """As curvature has them."""
        single = (self.curves, self.inflation, self.basis, self.outer)
        return Correlation(self.tenor**2, *(one**2 for one in single))


def correlation_of(rules: Rules) -> Correlation:
    """The correlations of interest rates."""
    found = rules.tables.correlations
    tenor = np.array(found.ir_tenor, dtype=np.float64)
    return Correlation(tenor, found.sub_curve, found.inflation, found.xccy, found.ir_outer)


def concentrations(layout: Layout, rules: Rules) -> Floats:
    """[currency] max(1, sqrt(|sum| / threshold)), without the basis; 1 at the 1-day horizon."""
    currencies = layout.currencies
    if not rules.concentrated:
        return np.ones(len(currencies))
    counted = np.where(layout.of("kind") == BASIS, 0.0, layout.stream.amount)
    total = np.bincount(currencies.owner, weights=counted, minlength=len(currencies))
    threshold = layout.of("threshold")[currencies.first]
    ratio: Floats = np.maximum(1.0, np.sqrt(np.abs(total) / threshold))
    return ratio


def linear(device: Device, layout: Layout, rules: Rules) -> Array:
    """[group] delta or vega margin."""
    concentration = concentrations(layout, rules)
    each = concentration[layout.currencies.owner]
    each = np.where(layout.of("kind") == BASIS, 1.0, each) * layout.of("weight")
    weighted = device.put(layout.stream.amount) * device.put(each)
    return _root(device, layout, correlation_of(rules), weighted, concentration)


def bent(device: Device, layout: Layout, rules: Rules) -> tuple[Array, Array]:
    """[group] curvature margin, for who calls and who posts."""
    risk = device.put(layout.stream.amount) * device.put(layout.of("bend"))
    root = _root(device, layout, correlation_of(rules).squared(), risk, None)
    # Inflation is one risk of its currency, whatever the expiry.
    curve, of_curve = layout.entries(CURVE)
    other, of_inflation = layout.entries(INFLATION)
    on_curve = device.take(risk, curve)
    inflation = device.sums(device.take(risk, other), of_inflation)
    total = device.sums(on_curve, of_curve) + inflation
    gross = device.sums(device.xp.abs(on_curve), of_curve) + device.xp.abs(inflation)
    total, gross = (device.sums(one, layout.in_groups) for one in (total, gross))
    scale = rules.weights.hvr["InterestRate"] ** -2.0
    call, post = curvature(device, total, gross, root)
    return scale * call, scale * post


def _root(
    device: Device,
    layout: Layout,
    correlation: Correlation,
    weighted: Array,
    concentration: Floats | None,
) -> Array:
    """[group] root of all currencies together."""
    squares, total = _currencies(device, layout, correlation, weighted)
    total = device.clamped(total, device.root(squares))
    even = np.ones(len(layout.currencies)) if concentration is None else concentration
    groups = layout.in_groups
    pairs = pair_sums(device, total, even, groups.owner, len(groups))
    cross = correlation.outer * (pairs - device.sums(total * total, groups))
    return device.root(device.sums(squares, groups) + cross)


def _currencies(
    device: Device, layout: Layout, correlation: Correlation, weighted: Array
) -> tuple[Array, Array]:
    """[currency] K squared, and the sum of its weighted sensitivities."""
    curve, of_curve = layout.entries(CURVE)
    on_curve = device.take(weighted, curve)
    squares = _curves(device, layout, correlation, on_curve, curve)
    sums = device.sums(on_curve, of_curve)
    inflation, basis = (
        device.sums(device.take(weighted, chosen), segments)
        for chosen, segments in (layout.entries(kind) for kind in (INFLATION, BASIS))
    )
    beside = inflation * inflation + basis * basis
    cross = correlation.inflation * (sums * inflation) + correlation.basis * (
        sums * basis + inflation * basis
    )
    return squares + beside + 2.0 * cross, sums + inflation + basis


def _curves(
    device: Device, layout: Layout, correlation: Correlation, on_curve: Array, curve: Ints
) -> Array:
    """[currency] K squared of the curves alone; `curve` are the places of the entries."""
    currency, tenor = layout.currencies.owner[curve], layout.of("tenor")[curve]
    matrix, count = device.put(correlation.tenor), len(layout.currencies)
    each = runs(currency, layout.of("same")[curve])
    own = device.form(each, tenor, on_curve, matrix)
    alone = device.sums(own, grouped(currency[each.first], count))
    order = np.argsort(currency * (len(correlation.tenor) + 1) + tenor, kind="stable")
    points = runs(currency[order], tenor[order])
    summed = device.sums(device.take(on_curve, order), points)
    where = order[points.first]
    together = device.form(grouped(currency[where], count), tenor[where], summed, matrix)
    phi = correlation.curves
    return phi * together + (1.0 - phi) * alone
