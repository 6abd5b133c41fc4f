"""SIMM of any number of portfolios: in pieces that fit into memory, on a device that may fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.crif import MODELS, Bools, Crif
from gpu_margin.crif_parts import pieces
from gpu_margin.devices import Device
from gpu_margin.failures import join_failures
from gpu_margin.models.simm.calculation import Parameters, SimmResult, calculate
from gpu_margin.models.simm.kinds import SIDES
from gpu_margin.tiling import Progress

Floats = NDArray[np.float64]

# Rows that are calculated at a time; fewer where each of them is to be told apart.
ROWS = 2_000_000
_TRACED = 8

_SCHEDULE = MODELS.index("Schedule")


def results(
    crif: Crif,
    parameters: Parameters,
    device: Device,
    report: Progress,
    stage: str,
    *,
    traced: bool = False,
) -> Iterator[SimmResult]:
    """All portfolios in their order, piece by piece. The failures are those of the rules alone."""
    count = len(crif.portfolios)
    most = ROWS // _TRACED if traced else ROWS
    return results_of(pieces(crif, most), parameters, device, report, stage, count, traced=traced)


def results_of(
    parts: Iterable[Crif],
    parameters: Parameters,
    device: Device,
    report: Progress,
    stage: str,
    count: int,
    *,
    traced: bool = False,
) -> Iterator[SimmResult]:
    """The same of parts that have `count` portfolios together."""
    done = 0
    report(stage, 0, count)
    for part in parts:
        yield device.done(stage, partial(calculate, part, parameters, traced=traced))
        done += len(part.portfolios)
        report(stage, done, count)


@dataclass(frozen=True)
class Figures:
    """[portfolio, side] margins in USD, NaN where unknown; [portfolio] who is complete."""

    margin: Floats
    complete: Bools
    failures: pl.DataFrame


def figures(parts: Iterable[SimmResult]) -> Figures:
    """The totals alone of all parts."""
    margin, complete, failures = [np.zeros((0, len(SIDES)))], [np.zeros(0, dtype=np.bool_)], []
    for part in parts:
        margin.append(np.where(part.known[:, None], part.totals, np.nan))
        complete.append(~part.incomplete)
        failures.append(part.failures)
    return Figures(np.concatenate(margin), np.concatenate(complete), join_failures(failures))
