"""Which of a file's rates are whose: account types, maintenance or initial, core or reserve.

A file has figures for rate ids. `pbRateDef` says which account class has which id, and `adjRate` of
a combined commodity that the requirement of one id is that of another, times a factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from gpu_margin.failures import ConfigError
from gpu_margin.io.span_xml_tree import Bad, Node
from gpu_margin.span_tables import ACCOUNT_TYPES

LEVELS = ("maintenance", "initial")
# An account type and a level.
Class = tuple[str, str]
ALL = tuple((account, level) for account in ACCOUNT_TYPES for level in LEVELS)

# Whose rate counts for a class that the file has none of: hedgers first, as figures are theirs.
_NEAREST = ("hedger", "member", "speculator")
_ONLY = 1
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Rates:
    """The rate ids of classes of accounts.

    `told` has those that the file defines (of them the one asked for, where one is); `of` has all
    six, those of classes that the file has none of from the nearest that it has. `faults` are
    definitions that cannot be used: whose rate is whose is then not known.
    """

    told: Mapping[Class, int]
    of: Mapping[Class, int]
    faults: tuple[Bad, ...] = ()

    @property
    def ids(self) -> list[int]:
        """The ids in use, each once, in the order of classes."""
        return list(dict.fromkeys(self.of[one] for one in ALL))

    @property
    def said(self) -> str:
        """The classes that have a rate of their own, for people."""
        return ", ".join(
            f"{account} {level}" for account, level in ALL if (account, level) in self.told
        )


def rates_of(
    house: Node, account_class: str, account_type: str | None, initial: bool | None, source: str
) -> Rates:
    """The rates of a clearing organisation for core or reserve.

    With an account type and a level all six classes have its figures. Without `pbRateDef` there is
    one rate, 1. Raises `ConfigError` where the file has no rate that was asked for.
    """
    if account_class not in ("core", "reserve"):
        raise ConfigError(f"account_class is {account_class!r}: give core or reserve")
    if account_type not in (None, *ACCOUNT_TYPES):
        raise ConfigError(
            f"account_type is {account_type!r}: give one of {', '.join(ACCOUNT_TYPES)}"
        )
    told: dict[Class, int] = {}
    faults: list[Bad] = []
    defined = list(house.all("pbRateDef"))
    for node in defined:
        try:
            _define(node, told, account_class == "core")
        except Bad as bad:
            faults.append(bad)
    if not defined or (faults and not told):
        return Rates({}, dict.fromkeys(ALL, _ONLY), tuple(faults))
    if not told:
        raise ConfigError(f"{source}: no rates for {account_class}: give another account_class")
    return _narrowed(told, account_type, initial, source, tuple(faults))


def _define(node: Node, told: dict[Class, int], core: bool) -> None:
    kind = node.word("acctType")[:1].upper()
    account = next((name for name in ACCOUNT_TYPES if kind and name[0].upper() == kind), None)
    rate, level = node.whole("r", _ONLY), LEVELS[0] if node.flag("isM") else LEVELS[1]
    if account is not None and core == node.word("pbc", "CORE").upper().startswith("C"):
        told.setdefault((account, level), rate)


def _narrowed(
    told: dict[Class, int],
    account_type: str | None,
    initial: bool | None,
    source: str,
    faults: tuple[Bad, ...],
) -> Rates:
    """What is left of the classes that the file has by what was asked for, and the nearest."""
    kept = {
        (account, level): rate
        for (account, level), rate in told.items()
        if account_type in (None, account) and initial in (None, level == LEVELS[1])
    }
    if not kept:
        asked = " ".join(one for one in (account_type, _level(initial)) if one)
        had = Rates(told, {}).said
        raise ConfigError(f"{source}: no rate for {asked}: the file has {had}")
    return Rates(kept, {one: kept[_nearest(one, kept)] for one in ALL}, faults)


def _level(initial: bool | None) -> str:
    return "" if initial is None else LEVELS[initial]


def _nearest(wanted: Class, kept: Mapping[Class, int]) -> Class:
    """The class itself, another account type at its level, its type at the other, any."""
    account, level = wanted
    other = LEVELS[level == LEVELS[0]]
    order = [wanted, *((one, level) for one in _NEAREST), (account, other)]
    order += [(one, other) for one in _NEAREST]
    return next(one for one in order if one in kept)


@dataclass(frozen=True)
class Adjusted:
    """What the requirement of a rate is made of: that of `base`, times `factor`."""

    base: int
    factor: float


def adjusted(node: Node, rates: Rates) -> dict[Class, Adjusted]:
    """[class] what its requirement for a combined commodity is based on."""
    steps = {one.whole("r", _ONLY): one for one in node.all("adjRate")}
    return {one: _followed(steps, rate) for one, rate in rates.of.items()}


def _followed(steps: Mapping[int, Node], rate: int) -> Adjusted:
    factor, seen = Fraction(1), [rate]
    while seen[-1] in steps:
        step = steps[seen[-1]]
        factor *= step.exact("val", 1)
        base = step.whole("baseR", seen[-1])
        if base == seen[-1]:
            break
        if base in seen:
            raise Bad("rates are based on each other in a circle", step.line, "baseR", str(base))
        seen.append(base)
    return Adjusted(seen[-1], float(factor))


def picked(nodes: Iterable[Node], rates: Sequence[int], line: int, name: str) -> Node | None:
    """Of elements with rate ids that of the first id that is there, else the only one.

    None where there are none; several of which none is meant cannot be used.
    """
    found = list(nodes)
    own = {one.whole("r", _ONLY): one for one in reversed(found)}
    for rate in rates:
        if rate in own:
            return own[rate]
    if len(found) > 1:
        raise Bad(f"no {name} for rate {rates[0]}", line, name)
    return found[0] if found else None


def alike(read: Callable[[int], _Found], ids: Sequence[int], line: int) -> _Found:
    """What is read of a file by rate ids, which must be the same by all of them."""
    first = read(ids[0])
    if any(read(other) != first for other in ids[1:]):
        raise Bad(DIFFERENT, line)
    return first


DIFFERENT = (
    "account types have rates of their own: give account_type and initial, to read those of one"
)
