"""Families of contracts of a SPAN XML file, and where its contracts lie in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gpu_margin.io.span_xml_commodities import Commodities, Link
from gpu_margin.io.span_xml_numbers import Bools
from gpu_margin.io.span_xml_tree import Ints, Tree, period

KINDS = {
    "futPf": "FUT",
    "fwdPf": "FWD",
    "phyPf": "PHY",
    "equityPf": "STK",
    "cmbPf": "CMB",
    "oofPf": "OOF",
    "oopPf": "OOP",
    "ooePf": "OOE",
    "oocPf": "OOC",
}
_SINGLES = ("fut", "fwd", "phy", "equity", "cmb")
# Valued like futures: their value is not paid up front.
_DAILY = ("FUT", "FUTDA")
# A month that is none.
BROKEN = "?"


@dataclass(frozen=True)
class Families:
    """Families in the order of the file; all lists are [family].

    `links` has the combined commodity of each, None where the file says none.
    """

    elements: Ints
    exchange: list[str]
    number: list[str]
    code: list[str]
    kind: list[str]
    currency: list[str]
    premium: list[bool]
    links: list[Link | None]

    def __len__(self) -> int:
        return len(self.elements)


def families_of(tree: Tree, house: int, commodities: Commodities) -> Families:
    """All families of the exchanges of a clearing organisation."""
    exchanges = tree.under(np.array([house]), "exchange")[0]
    names = tree.said(tree.first(exchanges, "exch"))
    parts = [(*tree.under(exchanges, tag), label) for tag, label in KINDS.items()]
    elements = np.concatenate([part[0] for part in parts])
    order = np.argsort(elements)
    owner = np.concatenate([part[1] for part in parts])[order].tolist()
    kinds = [label for part in parts for label in [part[2]] * len(part[0])]
    elements, kind = elements[order], [kinds[place] for place in order.tolist()]
    exchange = [names[place] for place in owner]

    def said(name: str) -> list[str]:
        return tree.said(tree.first(elements, name))

    number, code = said("pfId"), said("pfCode")
    links = [
        commodities.links.get((a, b)) or commodities.links.get((a, c, d))
        for a, b, c, d in zip(exchange, number, code, kind, strict=True)
    ]
    premium = [(one or "EQTY") not in _DAILY for one in said("valueMeth")]
    return Families(elements, exchange, number, code, kind, said("currency"), premium, links)


@dataclass(frozen=True)
class Placed:
    """Contracts of families in the order of the file; all arrays are [contract].

    `home` is the element that has what is said of its whole series, `family` a place.
    """

    elements: Ints
    home: Ints
    family: Ints

    def __len__(self) -> int:
        return len(self.elements)

    @property
    def option(self) -> Bools:
        """Whether it is one of a series."""
        found: Bools = self.home != self.elements
        return found

    def __getitem__(self, which: Ints | Bools) -> Placed:
        return Placed(self.elements[which], self.home[which], self.family[which])


def placed(tree: Tree, families: Families) -> Placed:
    """All contracts of all families."""
    found = [tree.under(families.elements, name) for name in _SINGLES]
    elements = [own for own, _ in found]
    family = [place for _, place in found]
    series, of_series = tree.under(families.elements, "series")
    options, of_options = tree.under(series, "opt")
    home = [*elements, series[of_options]]
    elements.append(options)
    family.append(of_series[of_options])
    every = np.concatenate(elements)
    order = np.argsort(every, kind="stable")
    return Placed(every[order], np.concatenate(home)[order], np.concatenate(family)[order])


def months(tree: Tree, homes: Ints) -> list[str]:
    """[home] its month, "" for none, `BROKEN` for what is no month."""
    said = tree.said(tree.first(homes, "pe"))
    known = {one: period(one) for one in set(said)}
    return [BROKEN if (month := known[one]) is None else month for one in said]


class Singles:
    """Contracts that are no options, by how others name what they are on.

    `product` (exchange, code, kind) and `month` of each, and of those in the result its row.
    """

    def __init__(self, tree: Tree, families: Families, contracts: Placed) -> None:
        own = contracts[~contracts.option]
        numbers = tree.said(tree.first(own.elements, "cId"))
        self._found: dict[tuple[str, str, str], tuple[int, str]] = {}
        self._families = families
        for family, number, month in zip(
            own.family.tolist(), numbers, months(tree, own.elements), strict=True
        ):
            key = families.exchange[family], families.number[family], number
            self._found[key] = family, month

    def month(self, key: tuple[str, str, str]) -> str | None:
        """The month of what (exchange, family, contract) names, None where it is not there."""
        found = self._found.get(key)
        return None if found is None else found[1]

    def product(self, key: tuple[str, str, str]) -> tuple[str, str, str, str] | None:
        """Exchange, code, kind and month of what is named, None where it is not there."""
        if key not in self._found:
            return None
        family, month = self._found[key]
        of = self._families
        return of.exchange[family], of.code[family], of.kind[family], month


def underlying(tree: Tree, elements: Ints, exchanges: Sequence[str]) -> list[tuple[str, str, str]]:
    """[element] what its first `undC` names: (exchange, family, contract), "" for no family."""
    under = tree.first(elements, "undC")
    there = np.flatnonzero(under >= 0)
    named = keys(tree, under[there], [exchanges[place] for place in there.tolist()])
    found = [("", "", "")] * len(elements)
    for place, key in zip(there.tolist(), named, strict=True):
        found[place] = key
    return found


def keys(tree: Tree, under: Ints, exchanges: Sequence[str]) -> list[tuple[str, str, str]]:
    """[undC] (exchange, family, contract); an exchange that is not said is that of the contract."""
    parts = [tree.said(tree.first(under, name)) for name in ("exch", "pfId", "cId")]
    return [
        (exchange or own, family, contract)
        for own, exchange, family, contract in zip(exchanges, *parts, strict=True)
    ]


def gathered(values: Sequence[str], which: Ints) -> pl.Series:
    """Some of the texts, by their places."""
    return pl.Series(values, dtype=pl.String)[which]
