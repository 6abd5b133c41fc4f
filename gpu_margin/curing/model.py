"""What a prepared model's requirement is to a programme over some instruments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_margin.books import placed
from gpu_margin.curing.risk import Part, Slope, Tail, Tangents, Term, coherent_weights
from gpu_margin.failures import ConfigError
from gpu_margin.models import Prepared
from gpu_margin.offsets import Offsets
from gpu_margin.portfolio import Rows
from gpu_margin.tails import is_smoothed
from gpu_margin.unit_risk import Prepared as UnitPrepared
from gpu_margin.unit_risk import UnitRisk

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Requires:
    """A requirement of positions [column] in the instruments `columns` (codes, ascending).

    `parts` is what a programme makes of it, above it where it is a `bound`; `amount` recomputes it
    by the model itself.
    """

    columns: Ints
    parts: tuple[Part, ...]
    amount: Callable[[Floats], float]
    bound: bool


def requires(prepared: Prepared, exact: Prepared, columns: Ints) -> Requires:
    """The requirement of positions in `columns` under a model.

    `exact` is the model prepared in float64 (itself, where it is): the programme's vectors. Raises
    `ConfigError` for a rulebook that does not know a position by its unit.
    """
    if not isinstance(exact, UnitPrepared):
        raise ConfigError("cure works with rulebooks of scenarios or covariances only")
    unit = exact.unit
    places = _parts(prepared.offsets, columns)
    parts = tuple(
        Part(
            _term(unit, columns, whole),
            tuple(_term(unit, columns, group) for group in groups),
            1.0 if prepared.offsets is None else prepared.offsets.share,
        )
        for whole, groups in places
    )

    def amount(position: Floats) -> float:
        return float(prepared.require(one_row(columns, position)).amount[0])

    bound = unit.vectors is not None and is_smoothed(unit.vectors.measure)
    return Requires(columns, parts, amount, bound)


def one_row(columns: Ints, position: Floats) -> Rows:
    """Positions as one row of net positions; what is 0 is no position."""
    held = np.flatnonzero(position)
    return Rows(np.array([0, len(held)], dtype=np.int64), columns[held], position[held])


def _parts(offsets: Offsets | None, columns: Ints) -> list[tuple[Ints, list[Ints]]]:
    """Places in `columns` of what offsets, and of its groups where the offset is capped."""
    everything = np.arange(len(columns))
    if offsets is None:
        return [(everything, [])]
    cluster = np.zeros(len(columns)) if offsets.cluster is None else offsets.cluster[columns]
    group = offsets.group[columns]
    found = []
    for code in np.unique(cluster):
        own = everything[cluster == code]
        groups = [own[group[own] == one] for one in np.unique(group[own])]
        capped = offsets.share < 1.0 and len(groups) > 1
        found.append((own, groups if capped else []))
    return found


def _term(unit: UnitRisk, columns: Ints, places: Ints) -> Term:
    """The uncapped requirement of the columns at `places`."""
    codes = columns[places]
    if unit.vectors is None or unit.unit_pnl is None:
        return Tangents(places, _slope(unit, codes))
    pnl = np.asarray(unit.unit_pnl[codes], dtype=np.float64)
    return Tail(places, pnl, coherent_weights(unit.vectors.measure))


def _slope(unit: UnitRisk, codes: Ints) -> Slope:
    """Value and Euler rates as the model has them."""
    every = Rows(np.array([0, len(codes)], dtype=np.int64), codes, np.zeros(len(codes)))

    def slope(position: Floats) -> tuple[float, Floats]:
        rows = placed(one_row(codes, position), unit.backend)
        value = float(unit.backend.to_host(unit.measure(rows).value)[0])
        return value, unit.rates(rows, every, "instrument", False)

    return slope
