"""Slopes of the margins of `names` (credit, equity, commodity, FX) in their net sensitivities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.models.simm import names
from gpu_margin.models.simm.curvature import curvature_slopes
from gpu_margin.models.simm.factors import Rules
from gpu_margin.models.simm.kinds import DELTA, RISK_CLASSES, risk_class
from gpu_margin.models.simm.names import Correlation, Layout
from gpu_margin.models.simm.segments import Device, Segments, runs
from gpu_margin.models.simm.slopes_roots import (
    looked_up,
    pair_slopes,
    root_slopes,
    table_sums,
)

Array = Any
Floats = NDArray[np.float64]

_FX_DELTA = DELTA + RISK_CLASSES.index("FX")


def linear_slopes(device: Device, layout: Layout, rules: Rules, number: int) -> Array:
    """[entry] slope of delta, base correlation or vega margin, concentrations held."""
    concentration = names.concentrations(layout, rules, layout.names)
    each = concentration[layout.names.owner] * layout.of("weight") * layout.of("scale")
    factor = device.put(each)
    weighted = device.put(layout.stream.amount) * factor
    if number == _FX_DELTA:
        halves = _fx_halves(device, layout, rules, weighted, concentration)
        alone = Segments(np.arange(len(layout.groups) + 1))
        return root_slopes(device, weighted, halves, layout.groups, alone, None)[1] * factor
    correlation = names.correlation_of(rules, number)
    return _slopes(device, layout, correlation, weighted, concentration)[1] * factor


def bent_slopes(device: Device, layout: Layout, rules: Rules, number: int) -> list[Array]:
    """[side][entry] slope of curvature margin, for who calls and who posts."""
    correlation = names.correlation_of(rules, number).squared()
    factor = device.put(layout.of("bend"))
    risk = device.put(layout.stream.amount) * factor
    root, slope = _slopes(device, layout, correlation, risk, np.ones(len(layout.names)))
    pools = _pools(layout)
    credit = RISK_CLASSES[risk_class(number)].startswith("Credit")
    single = risk if credit else device.sums(risk, layout.names)
    owner = pools if credit else layout.names.within(pools)
    gross = device.sums(device.xp.abs(single), owner)
    sign = device.xp.sign(single)
    sign = sign if credit else device.spread(sign, layout.names)
    sides = curvature_slopes(device, device.sums(single, owner), gross, root)
    return [
        factor * (of_total + of_gross * sign + of_root * slope)
        for of_total, of_gross, of_root in (
            [device.spread(one, pools) for one in side] for side in sides
        )
    ]


def _pools(layout: Layout) -> Segments:
    """Of entries: what one root is of, a group's buckets but the residual one, or that one."""
    return runs(layout.stream.group, layout.of("bucket") == layout.residual)


def _slopes(
    device: Device, layout: Layout, correlation: Correlation, weighted: Array, each: Floats
) -> tuple[Array, Array]:
    """[pool] roots, and [entry] their slopes in what is weighted; `each` [name] concentrations."""
    buckets = layout.buckets.within(_pools(layout))
    halves = _bucket_halves(device, layout, correlation, weighted, each)

    def across(total: Array) -> Array:
        table = table_sums(device, buckets, layout.bucket, total, correlation.between)
        return looked_up(device, table, buckets.owner, layout.bucket)

    # What has a single bucket has none beside it.
    joined = across if len(correlation.between) > 1 else None
    return root_slopes(device, weighted, halves, layout.buckets, buckets, joined)


def _bucket_halves(
    device: Device, layout: Layout, correlation: Correlation, weighted: Array, each: Floats
) -> Array:
    """[entry] half the slope of its bucket's K squared."""
    buckets, of_names = layout.buckets, layout.names
    owner = of_names.within(buckets).owner
    bucket = layout.bucket[owner]
    different, equal = correlation.different[bucket], correlation.same[bucket]
    by_name = device.sums(weighted, of_names)
    found = device.put(different) * pair_slopes(device, by_name, each, owner, len(buckets))
    more = device.put(equal - different)
    own = device.put((1.0 - equal)[of_names.owner]) * weighted
    if not layout.shared:
        return device.spread(found + more * by_name, of_names) + own
    same = device.spread(_same_name(device, layout, weighted, each), layout.parts)
    return device.spread(found, of_names) + device.spread(more, of_names) * same + own


def _same_name(device: Device, layout: Layout, weighted: Array, each: Floats) -> Array:
    """[part] half the slope of F of entries of one name, of whatever concentration."""
    first = layout.parts.first
    width = int(layout.factors.same.max(initial=0)) + 1
    key = layout.buckets.owner[first] * width + layout.of("same")[first]
    known, owner = np.unique(key, return_inverse=True)
    concentration = each[layout.names.owner[first]]
    by_part = device.sums(weighted, layout.parts)
    return pair_slopes(device, by_part, concentration, owner.reshape(-1), len(known))


def _fx_halves(
    device: Device, layout: Layout, rules: Rules, weighted: Array, each: Floats
) -> Array:
    """[entry] half the slope of its group's K squared: `names` has the correlations."""
    base = rules.tables.fx_group(rules.calculation_currency)
    (high, mixed), (_, low) = (tuple(row) for row in rules.tables.correlations.fx[base])
    count, owner, group = len(layout.groups), layout.groups.owner, layout.of("group")
    whole = pair_slopes(device, weighted, each, owner, count)
    alike = pair_slopes(device, weighted, each, 2 * owner + group, 2 * count)
    same = np.where(group == 0, high, low)
    return mixed * whole + device.put(same - mixed) * alike + device.put(1.0 - same) * weighted
