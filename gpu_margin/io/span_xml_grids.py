"""Scenarios of risk arrays as a file defines them, for all or for a combined commodity."""

from __future__ import annotations

import numpy as np

from gpu_margin.io.span_xml_tree import Bad, Node
from gpu_margin.span_tables import SIXTEEN, Grid


class Grids:
    """The grids of a file, each once."""

    def __init__(self) -> None:
        self.found: list[Grid] = []

    def place(self, grid: Grid) -> int:
        """Where a grid stands; it is added if it is new."""
        for place, other in enumerate(self.found):
            same = len(grid) == len(other) and np.array_equal(grid.still, other.still)
            if same and np.array_equal(grid.pair, other.pair):
                return place
        self.found.append(grid)
        return len(self.found) - 1


def grid_of(node: Node, default: Grid = SIXTEEN) -> Grid:
    """The grid that an element defines, else the default one. Pairs go by numbers of points."""
    found = node.first("pointDef")
    points = list(found.all("scanPointDef")) if found is not None else []
    if not points:
        return default
    places: dict[int, int] = {}
    for place, point in enumerate(points):
        if places.setdefault(point.whole("point"), place) != place:
            raise Bad("a scan point is there twice", point.line, "point", point.word("point"))
    pair = [_paired(point, places) for point in points]
    still = np.array([_still(point) for point in points])
    if not still.any():
        # Nothing says what time costs: the points that have always said it do.
        still = np.isin(np.arange(len(points)), np.flatnonzero(default.still))
    if not still.any():
        raise Bad("no scan point leaves the price where it is", node.line, "pointDef")
    return Grid(np.array(pair, dtype=np.int64), still)


def _still(point: Node) -> bool:
    """Whether the price does not move: its move is a multiple of a part of the scan range."""
    move = point.first("priceScanDef")
    if move is None:
        return True
    parts = [name for name in ("mult", "numerator") if move.first(name) is not None]
    return not parts or any(move.number(name) == 0 for name in parts)


def _paired(point: Node, places: dict[int, int]) -> int:
    """The place of the point that one is paired with: itself, where nothing or nought is said."""
    number = point.whole("point")
    other = point.whole("pairedPoint", number) or number
    if other not in places:
        said = point.word("pairedPoint")
        raise Bad("the paired scan point is not there", point.line, "pairedPoint", said)
    return places[other]
