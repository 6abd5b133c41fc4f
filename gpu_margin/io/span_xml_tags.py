"""What stands in many XML tags at once, as codes.

A name of up to eight bytes is a whole number; longer ones are mixed from three such numbers. Each
distinct one is then looked at once.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.io.span_xml_tree import Codes, Ints

Words = NDArray[np.uint64]
Steps = NDArray[np.int8]

_SLASH = b"/"[0]
_WORD = 8
# Tags of more bytes are looked at one by one: no name of the format is one.
_LONGEST = 3 * _WORD
# More different tags are not the names of a format.
_MOST = 512
_BITS = 16
_TRIES = 200
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(_WORD + 1)], np.uint64)
_MIX = tuple(np.uint64(one) for one in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
_SHIFT = np.uint64(29)
_NAME = rb"[A-Za-z_][A-Za-z0-9_.-]*(?::[A-Za-z_][A-Za-z0-9_.-]*)?"
_VALUE = rb"(?:\"[^\"<&]*\"|'[^'<&]*')"
_TAG = re.compile(rb"(" + _NAME + rb")((?:[ \t]+" + _NAME + rb"=" + _VALUE + rb")*)[ \t]*")
_ATTRIBUTE = re.compile(rb"[ \t]+(" + _NAME + rb")=" + _VALUE)


class Tags:
    """Tags of a document as they are found, by what stands in them (a name, maybe attributes).

    `names` are those of elements, without prefixes.
    """

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._data = np.frombuffer(text, np.uint8)
        size = max(len(text) - _WORD + 1, 0)
        # The eight bytes from each place on.
        self._words: Words = np.ndarray((size,), "<u8", text, strides=(1,))
        self.names: list[str] = []
        self._raw: list[bytes] = []
        self._of_raw: list[int] = []
        self._of_name: list[int] = []
        self._plain: list[bool] = []
        self._by_tag: dict[bytes, int] = {}
        self._by_key: dict[int, int] = {}
        self._spread = _MIX[0]
        self._slots = np.zeros(1 << _BITS, np.uint64)
        self._codes = np.full(1 << _BITS, -1, np.int16)

    def name(self, code: Codes) -> Codes:
        """[tag] the place in `names` of its element's name."""
        return np.array(self._of_name, np.int16)[code]

    def raw(self, code: Codes) -> Codes:
        """[tag] a number of its name with its prefix, by which it must be closed."""
        return np.array(self._of_raw, np.int16)[code]

    def read(self, start: Ints, end: Ints) -> tuple[Codes, Steps] | None:
        """[tag] codes of what stands in tags from < to >, and what each does to the depth.

        That is 1 where it opens an element, -1 where it closes one, 0 where it does both. None
        where one is unusual.
        """
        closing = self._data[start + 1] == _SLASH
        empty = self._data[end - 1] == _SLASH
        at = start + 1 + closing
        size = end - at - empty
        if (size < 1).any() or (closing & empty).any() or at[-1] >= len(self._words):
            return None
        code = self._found(at, size)
        if code is None or (closing & ~np.array(self._plain, np.bool_)[code]).any():
            return None
        return code, (1 - 2 * closing.astype(np.int8) - empty).astype(np.int8)

    def _found(self, at: Ints, size: Ints) -> Codes | None:
        """[tag] codes, which are given to new ones; None where one cannot have one."""
        keys = self._keys(at, size)
        code = self._looked_up(keys)
        new = np.flatnonzero((code < 0) & (size <= _LONGEST))
        if len(new):
            fresh, example = np.unique(keys[new], return_index=True)
            if len(fresh) + len(self._by_key) > _MOST:
                return None
            for key, one in zip(fresh.tolist(), new[example].tolist(), strict=True):
                self._by_key[key] = self._learned(self._tag(at[one], size[one]))
            if min(self._by_key.values()) < 0 or not self._spread_out():
                return None
            code = self._looked_up(keys)
        for one in np.flatnonzero(size > _LONGEST).tolist():
            code[one] = self._learned(self._tag(at[one], size[one]))
            if code[one] < 0 or len(self._by_tag) > 2 * _MOST:
                return None
        return code

    def _tag(self, at: int, size: int) -> bytes:
        return self._text[at : at + size]

    def _keys(self, at: Ints, size: Ints) -> Words:
        """[tag] a number of what stands in it: the same for the same."""
        keys: Words = self._words[at] & _MASKS[np.minimum(size, _WORD)]
        long = np.flatnonzero(size > _WORD)
        mixed = keys[long] * _MIX[0] + size[long].astype(np.uint64)
        for number in (1, 2):
            left = np.clip(size[long] - number * _WORD, 0, _WORD)
            place = np.minimum(at[long] + number * _WORD, len(self._words) - 1)
            mixed = (mixed ^ (mixed >> _SHIFT)) * _MIX[number]
            mixed += self._words[place] & _MASKS[left]
        keys[long] = mixed
        return keys

    def _looked_up(self, keys: Words) -> Codes:
        slot = ((keys * self._spread) >> np.uint64(64 - _BITS)).astype(np.int32)
        return np.where(self._slots[slot] == keys, self._codes[slot], np.int16(-1))

    def _spread_out(self) -> bool:
        """Find a factor by which all keys have slots of their own, and put them there."""
        keys = np.array(list(self._by_key), np.uint64)
        for number in range(_TRIES):
            self._spread = np.uint64((int(_MIX[0]) + 2 * number * int(_MIX[1])) % (1 << 64))
            slot = (keys * self._spread) >> np.uint64(64 - _BITS)
            if len(np.unique(slot)) == len(keys):
                self._slots[:], self._codes[:] = 0, -1
                self._slots[slot] = keys
                self._codes[slot] = np.array(list(self._by_key.values()), np.int16)
                return True
        return False

    def _learned(self, tag: bytes) -> int:
        """The code of what stands in a tag; -1 where it is not a name and attributes."""
        if tag in self._by_tag:
            return self._by_tag[tag]
        found = _TAG.fullmatch(tag)
        attributes = _ATTRIBUTE.findall(found[2]) if found is not None else []
        if found is None or len(attributes) != len(set(attributes)):
            return -1
        local = found[1].rpartition(b":")[2].decode()
        self._of_name.append(_place(self.names, local))
        self._of_raw.append(_place(self._raw, found[1]))
        self._plain.append(not attributes)
        self._by_tag[tag] = len(self._plain) - 1
        return self._by_tag[tag]


def _place(known: list[Any], one: Any) -> int:
    """Where something stands in a list; it is added if it is new."""
    if one not in known:
        known.append(one)
    return known.index(one)
