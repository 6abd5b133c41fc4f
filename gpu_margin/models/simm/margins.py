"""Margins of all calculations of a batch: net, weight, and add up stream by stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.models.simm import levels, names, rates
from gpu_margin.models.simm.factors import Factors, Rules
from gpu_margin.models.simm.kinds import BASE_CORRELATION, RISK_CLASSES, SIDES, STREAMS, VEGA
from gpu_margin.models.simm.kinds import risk_class as class_of
from gpu_margin.models.simm.levels import BASE_CORR, CURVATURE, DELTA, Levels
from gpu_margin.models.simm.netting import CLASSES, Netted, Stream
from gpu_margin.models.simm.segments import Device

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_RATES = RISK_CLASSES.index("InterestRate")


@dataclass(frozen=True)
class Part:
    """What a stream adds: margin type, its groups, and their margin on each side."""

    kind: int
    risk_class: int
    group: Ints
    sides: tuple[Array, Array]


def margins(
    device: Device, netted: Netted, factors: Factors, rules: Rules, count: int
) -> list[Levels]:
    """Margins of `count` calculations, for each of `SIDES`."""
    found = levels.empty(count, CLASSES)
    for number in range(STREAMS):
        if not len(netted.streams[number]):
            continue
        for part in _parts(device, netted.streams[number], factors, rules, number):
            calculation, product_class = np.divmod(part.group, CLASSES)
            place = (part.kind, calculation, product_class, part.risk_class)
            for side, values in enumerate(part.sides):
                found[side, *place] = device.get(values)
    psi = np.array(rules.tables.risk_class_correlation)
    return [Levels(found[side], psi) for side in range(len(SIDES))]


def _parts(
    device: Device, stream: Stream, factors: Factors, rules: Rules, number: int
) -> list[Part]:
    own = class_of(number)
    if own == _RATES:
        return _of_rates(device, stream, factors, rules, number)
    layout = names.layout_of(stream, factors, rules, number)
    group = stream.group[layout.groups.first]
    linear = names.linear(device, layout, rules, number)
    if number == BASE_CORRELATION:
        return [Part(BASE_CORR, own, group, (linear, linear))]
    if number < VEGA:
        return [Part(DELTA, own, group, (linear, linear))]
    bent = names.bent(device, layout, rules, number)
    return [Part(levels.VEGA, own, group, (linear, linear)), Part(CURVATURE, own, group, bent)]


def _of_rates(
    device: Device, stream: Stream, factors: Factors, rules: Rules, number: int
) -> list[Part]:
    layout = rates.Layout(stream, factors)
    group = stream.group[layout.groups.first]
    linear = rates.linear(device, layout, rules)
    if number < VEGA:
        return [Part(DELTA, _RATES, group, (linear, linear))]
    vega = Part(levels.VEGA, _RATES, group, (linear, linear))
    return [vega, Part(CURVATURE, _RATES, group, rates.bent(device, layout, rules))]
