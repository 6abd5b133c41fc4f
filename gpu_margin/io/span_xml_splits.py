"""Contracts on combinations: what positions in them, or their deltas, are split into."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from gpu_margin.io.span_xml_contracts import Contracts
from gpu_margin.io.span_xml_families import Families, Placed, Singles, keys, underlying
from gpu_margin.io.span_xml_numbers import figures
from gpu_margin.io.span_xml_tree import Tree, first_said

Row = dict[str, Any]
Key = tuple[str, str, str]
# Legs of a combination, or why they cannot be used.
Legs = list[tuple[Key, float]] | str

_SIDES = {"": 1.0, "A": 1.0, "B": -1.0}


def splits_of(
    tree: Tree, families: Families, every: Placed, singles: Singles, contracts: Contracts
) -> tuple[list[Row], dict[int, str]]:
    """Rows of `splits`, and [row of contracts] why one cannot be split.

    Positions in a combination become its legs, or only their deltas do; of an option on a
    combination it is always its delta only.
    """
    split = [link.split if link is not None else "" for link in families.links]
    wanted = [
        bool(method) and kind in ("CMB", "OOC")
        for method, kind in zip(split, families.kind, strict=True)
    ]
    own = contracts.placed
    rows = np.flatnonzero(np.array(wanted, np.bool_)[own.family])
    if not len(rows):
        return [], {}
    chosen = own[rows]
    legs = _legs(tree, families, every)
    at = _named(tree, families, chosen)
    of_product = _products(contracts.table)
    found: list[Row] = []
    refused: dict[int, str] = {}
    for row, key, family in zip(rows.tolist(), at, chosen.family.tolist(), strict=True):
        made = _split(row, legs.get(key, []), singles, of_product)
        if isinstance(made, str):
            refused[row] = made
            continue
        whole = split[family] == "S" and families.kind[family] == "CMB"
        found += [{"contract": row, "leg": leg, "ratio": r, "replaced": whole} for leg, r in made]
    return found, refused


def _named(tree: Tree, families: Families, chosen: Placed) -> list[Key]:
    """[contract] by what its combination is known: itself, or what an option is on."""
    family = chosen.family.tolist()
    exchanges = [families.exchange[one] for one in family]
    numbers = tree.said(tree.first(chosen.elements, "cId"))
    homes, place = np.unique(chosen.home, return_inverse=True)
    first = np.zeros(len(homes), np.int64)
    first[place[::-1]] = np.arange(len(place))[::-1]
    on = underlying(tree, homes, [exchanges[one] for one in first.tolist()])
    return [
        on[home] if option else (exchange, families.number[one], number)
        for option, home, exchange, one, number in zip(
            chosen.option.tolist(), place.tolist(), exchanges, family, numbers, strict=True
        )
    ]


def _legs(tree: Tree, families: Families, every: Placed) -> dict[Key, Legs]:
    """The legs of all combinations of the file."""
    kinds = np.array([kind == "CMB" for kind in families.kind], np.bool_)
    own = every[kinds[every.family] & ~every.option]
    exchanges = [families.exchange[one] for one in own.family.tolist()]
    numbers = tree.said(tree.first(own.elements, "cId"))
    under, place = tree.under(own.elements, "undC")
    ratio = figures(tree, first_said(tree, tree.first(under, "i")))
    sides = tree.said(tree.first(under, "s"))
    named = keys(tree, under, [exchanges[one] for one in place.tolist()])
    of = [
        (exchange, families.number[family], number)
        for exchange, family, number in zip(exchanges, own.family.tolist(), numbers, strict=True)
    ]
    found: dict[Key, Legs] = {key: [] for key in of}
    ratios = np.where(ratio.absent, 1.0, ratio.value).tolist()
    for one, leg, size, side in zip(place.tolist(), named, ratios, sides, strict=True):
        known = found[of[one]]
        if isinstance(known, str):
            continue
        if side not in _SIDES or not size > 0:
            found[of[one]] = f"its leg {':'.join(leg)} has no good ratio or side"
        else:
            known.append((leg, size * _SIDES[side]))
    return found


def _products(table: pl.DataFrame) -> dict[tuple[str, ...], int]:
    """[exchange, code, kind, month] the first contract that is no option."""
    columns = ("exchange", "product", "type", "future_month")
    own = table.with_row_index("place").filter(pl.col("right") == "")
    found: dict[tuple[str, ...], int] = {}
    for *key, place in own.select(*columns, "place").iter_rows():
        found.setdefault(tuple(key), place)
    return found


def _split(
    row: int, legs: Legs, singles: Singles, of_product: dict[tuple[str, ...], int]
) -> list[tuple[int, float]] | str:
    """Rows of contracts and ratios of the legs; why not, where one is not there."""
    if isinstance(legs, str):
        return legs
    found = []
    for key, ratio in legs:
        product = singles.product(key)
        place = of_product.get(product) if product is not None else None
        if place is None or place == row:
            return f"its leg {':'.join(key)} is not in the file"
        found.append((place, ratio))
    return found
