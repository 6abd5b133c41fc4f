"""Any XML document as columns, element by element: what is not done in one go, and all faults."""

from __future__ import annotations

from array import array
from typing import Any
from xml.parsers import expat

import numpy as np

from gpu_margin.failures import ConfigError
from gpu_margin.io.span_xml_tree import Ints, Tree

# Elements in elements: real files have about ten.
_DEEPEST = 100


def parse(text: bytes, source: str) -> Tree:
    """The document (UTF-8) as a tree.

    Raises `ConfigError` for what is no XML, with the line, and for a document type: its entities
    could be anything.
    """
    reading = _Reading(source)
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    reading.parser = parser
    parser.StartElementHandler = reading.begin
    parser.EndElementHandler = reading.finish
    parser.CharacterDataHandler = reading.say
    parser.StartDoctypeDeclHandler = reading.refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        reason = expat.errors.messages[error.code]
        raise ConfigError(f"{source}: not XML: {reason} (line {error.lineno})") from error
    return reading.tree(text.count(b"\n") + 1)


class _Reading:
    """What was read so far: columns of the tree, and the elements that are open."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.parser: Any = None
        self.codes: dict[str, int] = {}
        self.name, self.parent, self.line = array("i"), array("i"), array("i")
        self.start, self.end = array("q"), array("q")
        self.open: list[int] = [-1]
        self.pieces: list[str] = []
        self.texts: list[bytes] = []
        self.size = 0

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        if len(self.open) > _DEEPEST:
            line = self.parser.CurrentLineNumber
            raise ConfigError(f"{self.source}: elements lie too deep in each other (line {line})")
        local = name.rpartition(":")[2]
        self.pieces = []
        self.parent.append(self.open[-1])
        self.open.append(len(self.name))
        self.name.append(self.codes.setdefault(local, len(self.codes)))
        self.line.append(self.parser.CurrentLineNumber)
        self.start.append(self.size)
        self.end.append(self.size)

    def say(self, text: str) -> None:
        self.pieces.append(text)

    def finish(self, name: str) -> None:
        here = self.open.pop()
        if here == len(self.name) - 1 and self.pieces:
            said = "".join(self.pieces).encode()
            self.texts.append(said)
            self.start[here] = self.size
            self.size += len(said)
            self.end[here] = self.size
        self.pieces = []

    def refuse(self, *_: Any) -> None:
        line = self.parser.CurrentLineNumber
        reason = "a document type (DOCTYPE) is refused, for its entities: remove it"
        raise ConfigError(f"{self.source}: {reason} (line {line})")

    def tree(self, line_count: int) -> Tree:
        line = np.array(self.line, np.int64)

        def lines(elements: Ints) -> Ints:
            return line[elements]

        return Tree(
            text=b"".join(self.texts),
            names=list(self.codes),
            name=np.array(self.name, np.int32),
            parent=np.array(self.parent, np.int32),
            start=np.array(self.start, np.int64),
            end=np.array(self.end, np.int64),
            lines=lines,
            escaped=False,
            line_count=line_count,
        )
