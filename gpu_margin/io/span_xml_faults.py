"""Contracts that cannot be read: why, and where; each by the first of its faults."""

from __future__ import annotations

import numpy as np

from gpu_margin.failures import Failure
from gpu_margin.io.span_xml_numbers import Bools, Figures, figures
from gpu_margin.io.span_xml_tree import Ints, Tree, first_said


class Faults:
    """Which of some contracts are no good; `good` [contract]."""

    def __init__(self, tree: Tree, elements: Ints, source: str) -> None:
        self.good: Bools = np.ones(len(elements), np.bool_)
        self._tree, self._elements, self._source = tree, elements, source
        self.failures: list[Failure] = []

    def drop(self, bad: Bools, reason: str, name: str, at: Ints | None = None) -> None:
        """Contracts where `bad`; `at` [contract] is the element to blame, -1 the contract's."""
        which = np.flatnonzero(bad & self.good)
        if not len(which):
            return
        self.good[which] = False
        blamed = self._elements[which] if at is None else at[which]
        lines = self._tree.lines(np.where(blamed < 0, self._elements[which], blamed)).tolist()
        said = [""] * len(which) if at is None else self._tree.said(blamed)
        for line, value in zip(lines, said, strict=True):
            self.failures.append(Failure(reason, self._source, line, name, value or None))

    def numbers(self, name: str, *places: Ints) -> Figures:
        """[contract] what the first of some elements says that says anything.

        Contracts where it is no number are dropped.
        """
        chosen = first_said(self._tree, *places)
        found = figures(self._tree, chosen)
        self.drop(found.bad, f"{name} is not a number, or is out of range", name, chosen)
        return found
