"""XML documents as columns, all elements at once: what large files are.

Nothing but elements, text, comments between elements and the five entities of XML is known here.
Whatever is unusual (a tag that is not closed, other markup) makes the document one for the slower
reader, which knows all of XML and says what is wrong. Both read the same from what this one takes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_margin.io.span_xml_tags import Tags
from gpu_margin.io.span_xml_tree import Codes, Ints, Tree

# Bytes at a time: enough to keep NumPy busy, few enough to stay near the processor.
_BLOCK = 1 << 18
_DEEPEST = 100
_OPENS, _CLOSES, _NEW_LINE = b"<>\n"
_PROLOG = re.compile(
    rb"(?:<\?xml\s+version\s*=\s*([\"'])1\.[0-9]\1"
    rb"(?:\s+encoding\s*=\s*([\"'])[A-Za-z][A-Za-z0-9._-]*\2)?"
    rb"(?:\s+standalone\s*=\s*([\"'])(?:yes|no)\3)?\s*\?>)?[ \t\r\n]*"
)
_ENTITY = re.compile(rb"&(?:amp|lt|gt|quot|apos);")
# Comments of plain characters; more of them than this are not worth the trouble.
_COMMENT = re.compile(rb"<!--(?:[\t\r\n -,.-~]|-(?!-))*-->")
_NOT_BREAKS = re.compile(rb"[^\r\n]")
_MOST_COMMENTS = 10_000
# How far from a comment a tag may be.
_NEAR = 256
# Characters that are in UTF-8 but not in XML.
_NO_CHARACTERS = (b"\xef\xbf\xbe", b"\xef\xbf\xbf")


def scan(text: bytes) -> Tree | None:
    """The document (UTF-8) as a tree, None where it is one for `span_xml_expat`."""
    text = _without_comments(text)
    prolog = _PROLOG.match(text)
    first = prolog.end() if prolog is not None else 0
    if not _usual(text, first):
        return None
    tokens = _tokens(text, first)
    return None if tokens is None else _tree(text, tokens)


def _without_comments(text: bytes) -> bytes:
    """The text with blanks instead of comments that lie between tags; others stay."""
    if b"<!--" not in text:
        return text
    pieces: list[bytes] = []
    done = 0
    while (start := text.find(b"<!--", done)) >= 0 and len(pieces) < _MOST_COMMENTS:
        end = text.find(b"-->", start + 4) + 3
        before = text[max(start - _NEAR, 0) : start].rstrip()
        after = text[end : end + _NEAR].lstrip()
        plain = _COMMENT.fullmatch(text, start, end) if end > 3 else None
        if plain is None or not before.endswith(b">") or not after.startswith(b"<"):
            return text
        pieces += [text[done:start], _NOT_BREAKS.sub(b" ", text[start:end])]
        done = end
    return b"".join([*pieces, text[done:]])


def _usual(text: bytes, first: int) -> bool:
    """Whether all of it is elements, text of XML's characters, and its entities."""
    if text[first : first + 1] != b"<" or text.find(b"<?", first) >= 0:
        return False
    if b"<!" in text or b"]]>" in text or text.count(b"\r") != text.count(b"\r\n"):
        return False
    if b"&" in text and len(_ENTITY.findall(text)) != text.count(b"&"):
        return False
    data = np.frombuffer(text, np.uint8)
    for low in range(0, len(data), _BLOCK):
        part = data[low : low + _BLOCK]
        # Tabs and ends of lines are 9, 10 and 13.
        if (part < 9).any() or ((part - np.uint8(11)) < 2).any():
            return False
        if ((part - np.uint8(14)) < 18).any():
            return False
    return text.isascii() or _is_text(text)


def _is_text(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return not any(one in text for one in _NO_CHARACTERS)


@dataclass(frozen=True)
class _Tokens:
    """Tags in their order; all arrays are [tag].

    `name` is a place in `names`, `raw` a number of what it must be closed by; `step` is 1 where it
    opens an element, -1 where it closes one, 0 where it does both; `start` is where it begins and
    `end` what follows it.
    """

    name: Codes
    raw: Codes
    step: NDArray[np.int8]
    start: Codes
    end: Codes
    names: list[str]


def _tokens(text: bytes, first: int) -> _Tokens | None:
    tags = Tags(text)
    parts: list[tuple[Codes, ...]] = []
    last = len(text)
    while first < last:
        # Up to where a tag begins: none lies in two blocks.
        cut = text.find(b"<", first + _BLOCK) if first + _BLOCK < last else -1
        cut = last if cut < 0 else cut
        block = np.frombuffer(text, np.uint8, cut - first, first)
        start, end = np.flatnonzero(block == _OPENS), np.flatnonzero(block == _CLOSES)
        if len(start) != len(end) or (end <= start + 1).any() or (start[1:] <= end[:-1]).any():
            return None
        start, end = start + first, end + first
        found = tags.read(start, end)
        if found is None:
            return None
        parts.append((*found, start.astype(np.int32), (end + 1).astype(np.int32)))
        first = cut
    code, step, start, end = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Tokens(tags.name(code), tags.raw(code), step, start, end, tags.names)


def _tree(text: bytes, tokens: _Tokens) -> Tree | None:
    level = np.cumsum(tokens.step, dtype=np.int32)
    root_only = level[-1] == 0 and level[:-1].min(initial=1) >= 1 and len(level) > 1
    if not root_only or level.max() > _DEEPEST or text[int(tokens.end[-1]) :].strip():
        return None
    if not _closed(tokens, level):
        return None
    opens = np.flatnonzero(tokens.step >= 0)
    depth = (level[opens] + (tokens.step[opens] == 0)).astype(np.int16)
    start = tokens.end[opens]
    # What follows an element's own tag is its text where the next tag closes it.
    following = np.minimum(opens + 1, len(level) - 1)
    leaf = (tokens.step[opens] > 0) & (tokens.step[following] < 0)
    end = np.where(leaf, tokens.start[following], start)
    breaks: list[Codes] = []

    def lines(elements: Ints) -> Ints:
        if not breaks:
            breaks.append(_places(text, _NEW_LINE))
        return np.searchsorted(breaks[0], start[elements]) + 1

    return Tree(
        text=text,
        names=tokens.names,
        name=tokens.name[opens],
        parent=_parents(depth),
        start=start,
        end=end,
        lines=lines,
        escaped=b"&" in text,
        line_count=text.count(b"\n") + 1,
    )


def _closed(tokens: _Tokens, level: Codes) -> bool:
    """Whether all elements are closed by their own names: at each depth they take turns."""
    opens, closes = np.flatnonzero(tokens.step > 0), np.flatnonzero(tokens.step < 0)
    first = opens[np.argsort(level[opens].astype(np.int8), kind="stable")]
    second = closes[np.argsort((level[closes] + 1).astype(np.int8), kind="stable")]
    return bool(np.array_equal(tokens.raw[first], tokens.raw[second]))


def _places(text: bytes, byte: int) -> Codes:
    """Where a byte stands."""
    data = np.frombuffer(text, np.uint8)
    parts = [
        (np.flatnonzero(data[low : low + _BLOCK] == byte) + low).astype(np.int32)
        for low in range(0, len(data), _BLOCK)
    ]
    return np.concatenate(parts)


def _parents(depth: NDArray[np.int16]) -> Codes:
    """[element] the last one before it that is one less deep, -1 for the root.

    Elements of one depth that follow each other have one parent.
    """
    begins = np.flatnonzero(np.diff(depth, prepend=np.int16(0)) != 0)
    own = depth[begins]
    # The run before one deeper ends with the parent; for others it is looked for.
    parent = begins - 1
    rises = np.diff(own, prepend=np.int16(0)) > 0
    for level in np.unique(own[~rises]):
        back = ~rises & (own == level)
        above = np.flatnonzero(own == level - 1)
        ends = np.append(begins[1:], len(depth))[above] - 1
        parent[back] = ends[np.searchsorted(ends, begins[back]) - 1]
    sizes = np.diff(np.append(begins, len(depth)))
    return np.repeat(parent, sizes).astype(np.int32)
