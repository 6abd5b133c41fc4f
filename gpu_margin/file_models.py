"""Models on files: their margins piece by piece, on a device that may fail."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from gpu_margin import models
from gpu_margin.backend import Backend
from gpu_margin.devices import Device
from gpu_margin.file_tables import joined
from gpu_margin.loading import FileModel
from gpu_margin.models import FileInputs
from gpu_margin.result import FileMargin
from gpu_margin.tiling import Clock, Progress


def file_margins(
    several: Sequence[FileModel], device: Device, report: Progress, clock: Clock
) -> dict[str, FileMargin]:
    """Per model the margin of all its accounts.

    A device that fails is given up, and the piece done on the next.
    """
    return {one.model.name: _margin(one, device, report, clock) for one in several}


def _margin(one: FileModel, device: Device, report: Progress, clock: Clock) -> FileMargin:
    stage, count, done = f"margin {one.model.name}", len(one.inputs.accounts), 0
    rulebook = models.on_files(one.model.kind)

    def margined(piece: FileInputs, shard: Backend) -> FileMargin:
        return rulebook.margin(one.model.parameters, piece, one.rate, shard)

    parts = []
    report(stage, 0, count)
    for piece in one.inputs.pieces():
        with clock.timed(stage):
            parts.append(device.done(stage, partial(margined, piece)))
        done += len(piece.accounts)
        report(stage, done, count)
    return joined(parts)
