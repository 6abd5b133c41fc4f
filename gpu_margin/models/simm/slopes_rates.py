"""Slopes of the margins of `rates` in their net sensitivities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.models.simm import rates
from gpu_margin.models.simm.curvature import curvature_slopes
from gpu_margin.models.simm.factors import Rules
from gpu_margin.models.simm.kinds import BASIS, CURVE, INFLATION
from gpu_margin.models.simm.rates import Correlation, Layout
from gpu_margin.models.simm.segments import Device, Segments, runs
from gpu_margin.models.simm.slopes_roots import (
    looked_up,
    pair_slopes,
    root_slopes,
    table_sums,
)

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def linear_slopes(device: Device, layout: Layout, rules: Rules) -> Array:
    """[entry] slope of delta or vega margin, concentrations held."""
    concentration = rates.concentrations(layout, rules)
    each = np.where(
        layout.of("kind") == BASIS, 1.0, concentration[layout.currencies.owner]
    ) * layout.of("weight")
    factor = device.put(each)
    weighted = device.put(layout.stream.amount) * factor
    correlation = rates.correlation_of(rules)
    return _slopes(device, layout, correlation, weighted, concentration)[1] * factor


def bent_slopes(device: Device, layout: Layout, rules: Rules) -> list[Array]:
    """[side][entry] slope of curvature margin, for who calls and who posts."""
    scale = rules.weights.hvr["InterestRate"] ** -2.0
    factor = device.put(layout.of("bend"))
    risk = device.put(layout.stream.amount) * factor
    correlation = rates.correlation_of(rules).squared()
    even = np.ones(len(layout.currencies))
    root, slope = _slopes(device, layout, correlation, risk, even)
    single, singles = _risks(device, layout, risk)
    owner = singles.within(layout.groups)
    gross = device.sums(device.xp.abs(single), owner)
    sign = device.spread(device.xp.sign(single), singles)
    sides = curvature_slopes(device, device.sums(single, owner), gross, root)
    return [
        (scale * factor) * (of_total + of_gross * sign + of_root * slope)
        for of_total, of_gross, of_root in (
            [device.spread(one, layout.groups) for one in side] for side in sides
        )
    ]


def _risks(device: Device, layout: Layout, risk: Array) -> tuple[Array, Segments]:
    """Curvature risks as their sizes count, and the entries of each.

    An entry is one, but inflation is one risk of its currency, whatever the expiry.
    """
    place = np.arange(len(layout.stream))
    inflation = layout.of("kind") == INFLATION
    singles = runs(layout.currencies.owner, np.where(inflation, -1, place))
    return device.sums(risk, singles), singles


def _slopes(
    device: Device, layout: Layout, correlation: Correlation, weighted: Array, each: Floats
) -> tuple[Array, Array]:
    """[group] roots, and [entry] their slopes in what is weighted; `each` [currency]."""
    groups = layout.in_groups

    def across(total: Array) -> Array:
        pairs = pair_slopes(device, total, each, groups.owner, len(groups))
        return correlation.outer * (pairs - total)

    halves = _halves(device, layout, correlation, weighted)
    return root_slopes(device, weighted, halves, layout.currencies, groups, across)


def _halves(device: Device, layout: Layout, correlation: Correlation, weighted: Array) -> Array:
    """[entry] half the slope of its currency's K squared."""
    chosen = {kind: layout.entries(kind) for kind in (CURVE, INFLATION, BASIS)}
    sums, inflation, basis = (
        device.sums(device.take(weighted, places), segments) for places, segments in chosen.values()
    )
    curve, of_curve = chosen[CURVE]
    beside = correlation.inflation * inflation + correlation.basis * basis
    on_curve = _curve_halves(device, layout, correlation, device.take(weighted, curve), curve)
    on_curve = on_curve + device.spread(beside, of_curve)
    of_inflation = inflation + correlation.inflation * sums + correlation.basis * basis
    of_basis = basis + correlation.basis * (sums + inflation)
    spread = (
        device.spread(one, chosen[kind][1])
        for one, kind in ((of_inflation, INFLATION), (of_basis, BASIS))
    )
    found = device.xp.concat([on_curve, *spread])
    back = np.empty(len(layout.stream), dtype=np.int64)
    back[np.concatenate([places for places, _ in chosen.values()])] = np.arange(len(back))
    return device.take(found, back)


def _curve_halves(
    device: Device, layout: Layout, correlation: Correlation, on_curve: Array, curve: Ints
) -> Array:
    """[entry on a curve] half the slope of K squared of the curves alone; `curve` their places.

    A tenor meets its own curve's others in full, and phi of what is on all curves together.
    """
    currency, tenor = layout.currencies.owner[curve], layout.of("tenor")[curve]
    matrix, width = correlation.tenor, len(correlation.tenor)
    each = runs(currency, layout.of("same")[curve])
    alone = looked_up(device, table_sums(device, each, tenor, on_curve, matrix), each.owner, tenor)
    order = np.argsort(currency * width + tenor, kind="stable")
    points = runs(currency[order], tenor[order])
    summed = device.sums(device.take(on_curve, order), points)
    which, at = currency[order][points.first], tenor[order][points.first]
    every = runs(which)
    together = looked_up(device, table_sums(device, every, at, summed, matrix), every.owner, at)
    back = np.empty(len(order), dtype=np.int64)
    back[order] = points.owner
    phi = correlation.curves
    return phi * device.take(together, back) + (1.0 - phi) * alone
