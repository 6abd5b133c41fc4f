"""Euler attribution of SIMM: how much of a calculation's margin comes of each net sensitivity.

The slope of a net sensitivity is d total / d amount with concentration factors held at their
values. So held the margin is of degree 1 in the amounts, and contributions, amount x slope, add up
to it. All else moves: roots, sums held within their roots (they move as these), theta and lambda of
curvature, floors at 0 and the correlations of risk classes. Where a root is 0 its slopes are 0.

Added up, contributions miss the margin by rounding alone. Where sensitivities offset almost wholly
it is that of the sums of squares that cancel.

Add-ons and Schedule IM stand for themselves: they are of no sensitivity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.models.simm import names, rates, slopes_names, slopes_rates
from gpu_margin.models.simm.factors import Factors, Rules
from gpu_margin.models.simm.kinds import BASE_CORRELATION, RISK_CLASSES, SIDES, STREAMS, VEGA
from gpu_margin.models.simm.kinds import risk_class as class_of
from gpu_margin.models.simm.levels import BASE_CORR, CURVATURE, DELTA, Levels
from gpu_margin.models.simm.levels import VEGA as OF_VEGA
from gpu_margin.models.simm.netting import Netted, Stream
from gpu_margin.models.simm.segments import Device, Segments

Array = Any
Floats = NDArray[np.float64]

_RATES = RISK_CLASSES.index("InterestRate")


@dataclass(frozen=True)
class Part:
    """What the entries of a stream have to do with one margin type.

    `kind` is a place in `MARGIN_TYPES`, `stream` one among the streams; `sides` are [entry] by
    `SIDES`. A stream of volatilities has two parts, Vega and Curvature.
    """

    kind: int
    stream: int
    sides: tuple[Floats, ...]


def slopes(
    device: Device,
    netted: Netted,
    factors: Factors,
    rules: Rules,
    levels: Sequence[Levels],
    multiplier: Floats,
) -> list[Part]:
    """Slopes of each side's total in the amounts of all streams, in order of stream and type.

    `levels` [side] are the margins of the same sensitivities (`margins.margins`); `multiplier`
    [calculation, product class] is what each class's margin is multiplied by in the total.
    """
    above = [_class_slopes(one, multiplier) for one in levels]
    return [
        part
        for number in range(STREAMS)
        if len(netted.streams[number])
        for part in _parts(device, netted.streams[number], factors, rules, number, above)
    ]


def contributions(netted: Netted, parts: Sequence[Part]) -> list[Part]:
    """Amounts x slopes, in USD; what offsets wholly has 0."""
    return [
        Part(part.kind, part.stream, tuple(slope * amount + 0.0 for slope in part.sides))
        for part in parts
        for amount in (netted.streams[part.stream].amount,)
    ]


def _class_slopes(levels: Levels, multiplier: Floats) -> Floats:
    """[calculation x product class, risk class] slope of the total in the risk class's margin."""
    whole, margin, psi = levels.product_class, levels.risk_class, levels.psi
    some = whole > 0.0
    inverse = np.where(some, multiplier / np.where(some, whole, 1.0), 0.0)
    found = np.zeros_like(margin)
    for place in range(len(RISK_CLASSES)):
        found = found + margin[..., place, None] * psi[place]
    return (found * inverse[..., None]).reshape(-1, len(RISK_CLASSES))


def _parts(
    device: Device,
    stream: Stream,
    factors: Factors,
    rules: Rules,
    number: int,
    above: Sequence[Floats],
) -> list[Part]:
    """Slopes of a stream; `above` [side] those of the total in margins of risk classes."""
    groups, linear, bent = _of_stream(device, stream, factors, rules, number)
    group = stream.group[groups.first]
    totals = [device.put(one[group, class_of(number)]) for one in above]
    spread = [device.spread(one, groups) for one in totals]

    def part(kind: int, own: Sequence[Array]) -> Part:
        sides = (device.get(a * b) for a, b in zip(own, spread, strict=True))
        return Part(kind, number, tuple(sides))

    if number == BASE_CORRELATION:
        return [part(BASE_CORR, [linear] * len(SIDES))]
    if number < VEGA:
        return [part(DELTA, [linear] * len(SIDES))]
    return [part(OF_VEGA, [linear] * len(SIDES)), part(CURVATURE, bent)]


def _of_stream(
    device: Device, stream: Stream, factors: Factors, rules: Rules, number: int
) -> tuple[Segments, Array, list[Array]]:
    """Groups of entries; slopes [entry] of what is linear, and [side] of curvature if there is."""
    vega = number >= VEGA
    if class_of(number) == _RATES:
        rate = rates.Layout(stream, factors)
        linear = slopes_rates.linear_slopes(device, rate, rules)
        bent = slopes_rates.bent_slopes(device, rate, rules) if vega else []
        return rate.groups, linear, bent
    layout = names.layout_of(stream, factors, rules, number)
    linear = slopes_names.linear_slopes(device, layout, rules, number)
    bent = slopes_names.bent_slopes(device, layout, rules, number) if vega else []
    return layout.groups, linear, bent
