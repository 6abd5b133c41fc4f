"""An XML document as columns: elements in the order in which they begin.

Both readers of documents make one; all that follows is read off it, so that it does not matter
which of them it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Codes = NDArray[Any]  # whole numbers of the size that holds them

_ENTITY = re.compile(r"&(?:#x([0-9a-fA-F]+)|#([0-9]+)|(amp|lt|gt|quot|apos));")
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


@dataclass(frozen=True)
class Tree:
    """Elements of a document; all arrays are [element].

    `name` is a place in `names`; `parent` the element around it, -1 for the root. `text` from
    `start` to `end` is what an element without others in it says, as UTF-8 (nothing for others);
    where `escaped`, entities in it are not yet replaced. `lines` tells lines of elements, from 1;
    `line_count` is how many the document has.
    """

    text: bytes
    names: Sequence[str]
    name: Codes
    parent: Codes
    start: Codes
    end: Codes
    lines: Callable[[Ints], Ints]
    escaped: bool
    line_count: int
    _places: dict[str, Ints] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.name)

    def of(self, name: str) -> Ints:
        """The elements of a name."""
        if name not in self._places:
            code = self.names.index(name) if name in self.names else -1
            self._places[name] = np.flatnonzero(self.name == code)
        return self._places[name]

    def under(self, parents: Ints, name: str) -> tuple[Ints, Ints]:
        """Elements of a name right in one of some elements, and the places of those in `parents`.

        `parents` ascend.
        """
        found = self.of(name)
        if not len(parents) or not len(found):
            return found[:0], found[:0]
        above = self.parent[found]
        place = np.searchsorted(parents, above)
        place[place == len(parents)] = 0
        own = parents[place] == above
        return found[own], place[own]

    def first(self, parents: Ints, name: str) -> Ints:
        """[parent] the first element of a name in each, -1 where there is none."""
        found, place = self.under(parents, name)
        chosen = np.full(len(parents), -1, np.int64)
        chosen[place[::-1]] = found[::-1]
        return chosen

    def said(self, elements: Ints) -> list[str]:
        """What elements say, without blanks around it; "" for -1."""
        start = np.where(elements < 0, 0, self.start[elements]).tolist()
        end = np.where(elements < 0, 0, self.end[elements]).tolist()
        text = self.text
        found = [text[a:b].decode().strip() for a, b in zip(start, end, strict=True)]
        if self.escaped:
            return [replaced(one) if "&" in one else one for one in found]
        return found

    def nodes(self, first: int, last: int) -> Node:
        """The element `first` with all that is in it, which ends before the element `last`."""
        every = np.arange(first, last)
        said, lines = self.said(every), self.lines(every).tolist()
        names = [self.names[code] for code in self.name[first:last].tolist()]
        made = [Node(*one, []) for one in zip(names, said, lines, strict=True)]
        for node, above in zip(made[1:], self.parent[first + 1 : last].tolist(), strict=True):
            made[above - first].children.append(node)
        return made[0]

    def children(self, element: int) -> tuple[Ints, Ints]:
        """Elements right in one, and where each of them ends."""
        found = np.flatnonzero(self.parent == element)
        last = self.last(element)
        return found, np.append(found[1:], last)[: len(found)]

    def last(self, element: int) -> int:
        """Where an element ends: the next one that is not in it."""
        after = np.flatnonzero(self.parent[element + 1 :] < element)
        return element + 1 + int(after[0]) if len(after) else len(self)


def first_said(tree: Tree, *places: Ints) -> Ints:
    """[row] the first of some elements that is there and says something, else -1."""
    chosen = np.full(len(places[0]), -1, np.int64)
    for own in reversed(places):
        says = (own >= 0) & (tree.end[own] > tree.start[own])
        chosen = np.where(says, own, chosen)
    return chosen


def replaced(text: str) -> str:
    """Text with the entities of XML replaced."""
    return _ENTITY.sub(_entity, text)


def _entity(match: re.Match[str]) -> str:
    if match[3]:
        return _NAMED[match[3]]
    return chr(int(match[1], 16) if match[1] else int(match[2]))


class Bad(Exception):
    """A figure that cannot be used, and where it stands."""

    def __init__(self, reason: str, line: int, name: str = "", value: str = "") -> None:
        super().__init__(reason)
        self.reason, self.line, self.field, self.value = reason, line, name, value


@dataclass(slots=True)
class Node:
    """An element of the small part of a file, for reading it one by one."""

    name: str
    said: str
    line: int
    children: list[Node]

    def all(self, *names: str) -> Iterator[Node]:
        """Elements right in this one that have one of some names."""
        return (one for one in self.children if one.name in names)

    def first(self, name: str) -> Node | None:
        """The first of a name."""
        for one in self.children:
            if one.name == name:
                return one
        return None

    def word(self, name: str, default: str = "") -> str:
        """What the first of a name says; the default where there is none."""
        found = self.first(name)
        return default if found is None else found.said

    def flag(self, name: str) -> bool:
        """Whether the first of a name says yes; nothing said is no."""
        said = self.word(name).lower()
        if said not in _FLAGS:
            raise Bad(f"{name} is neither 1 nor 0", self.first_line(name), name, self.word(name))
        return _FLAGS[said]

    def first_line(self, name: str) -> int:
        """The line of the first of a name, else of the element itself."""
        found = self.first(name)
        return self.line if found is None else found.line

    def number(self, name: str, default: float | None = None) -> float:
        """The figure of a name; without a default it must be there."""
        found = self.first(name)
        if found is None or not found.said:
            if default is None:
                raise Bad(f"no {name}", self.line, name)
            return default
        return figure(found)

    def exact(self, name: str, default: int | None = None) -> Fraction:
        """The same, as it is written: for what is worked out from it before it is rounded."""
        self.number(name, default)
        return Fraction(self.word(name) or str(default))

    def whole(self, name: str, default: int | None = None) -> int:
        """The same, a whole number."""
        found = self.number(name, default)
        if found != int(found):
            raise Bad(f"{name} is not a whole number", self.first_line(name), name, self.word(name))
        return int(found)

    def month(self, name: str, default: str | None = None) -> str:
        """A month of a name: CCYYMM and a day code, if there is one; "" where it is all noughts."""
        said = self.word(name)
        if not said and default is not None:
            return default
        found = period(said)
        if found is None:
            line = self.first_line(name)
            raise Bad(f"{name} is not a month: CCYYMM or CCYYMMDD", line, name, said)
        return found


_FLAGS = {"1": True, "true": True, "y": True, "yes": True}
_FLAGS |= dict.fromkeys(("", "0", "false", "n", "no"), False)

# The largest figure that is believed: beyond it whole cents have no place in a float64.
LARGEST = 1e15
NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?$"
_NUMBER = re.compile(NUMBER)
_MONTH = re.compile(r"^([0-9]{6})([0-9A-Za-z]{0,2})$")


def figure(node: Node) -> float:
    """What an element says, as a finite number."""
    if not _NUMBER.match(node.said):
        raise Bad(f"{node.name} is not a number", node.line, node.name, node.said)
    found = float(node.said)
    if not abs(found) <= LARGEST:
        raise Bad(f"{node.name} is out of range", node.line, node.name, node.said)
    return found


def period(said: str) -> str | None:
    """CCYYMM and a day or week code, "" for no month (all noughts or nothing), None for no such."""
    found = _MONTH.match(said)
    if found is None:
        return None if said else ""
    month, day = found[1], found[2]
    if month == "000000":
        return ""
    return month if day in ("", "0", "00") else month + day
