"""Which class, product group and portfolio group an underlying is in, and its valuation points.

Points are numbered from the lowest price to the highest, so many below the price as above it and
evenly apart on each side. Classes of unlike types meet at the same number, not at the same move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_margin.tims_settings import TimsParameters

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Classes, product groups and portfolio groups as codes, in byte order of their names.

    `class_of` [factor], `product_of` [class], `portfolio_of` [product group]; `class_share` [class]
    and `product_share` [product group] of a gain count one floor up; `moves` [factor, point] are
    returns of prices, and `points` what the points are called. A class without a product group, and
    a product group without a portfolio group, is one of its own.
    """

    classes: tuple[str, ...]
    products: tuple[str, ...]
    portfolios: tuple[str, ...]
    class_of: Ints
    product_of: Ints
    portfolio_of: Ints
    class_share: Floats
    product_share: Floats
    moves: Floats
    points: tuple[str, ...]


def groups_of(parameters: TimsParameters, factors: Sequence[str]) -> Groups:
    """The groups of the underlyings `factors`."""
    own = [parameters.class_of.get(name, name) for name in factors]
    classes = sorted(set(own))
    # A group of its own has another kind of key than one that was named, which may sound the same.
    in_product = {name: _product(parameters, name) for name in classes}
    products = sorted(set(in_product.values()))
    in_portfolio = {key: _portfolio(parameters, key) for key in products}
    portfolios = sorted(set(in_portfolio.values()))
    steps = parameters.points_per_side()
    share = {key: _share_in(parameters, key) for key in products}
    further = {
        key: 1.0 if key[1] else float(parameters.portfolio_share(key[0]).value)
        for key in portfolios
    }
    return Groups(
        classes=tuple(classes),
        products=tuple(name for name, _ in products),
        portfolios=tuple(name for name, _ in portfolios),
        class_of=_codes(own, classes),
        product_of=_codes([in_product[name] for name in classes], products),
        portfolio_of=_codes([in_portfolio[key] for key in products], portfolios),
        class_share=np.array([share[in_product[name]] for name in classes], dtype=np.float64),
        product_share=np.array([further[in_portfolio[key]] for key in products], dtype=np.float64),
        moves=_moves([parameters.type_of(name) for name in own], parameters, steps),
        points=(
            *(f"down {step}" for step in range(steps, 0, -1)),
            *(f"up {step}" for step in range(1, steps + 1)),
        ),
    )


# Name, and whether it is of something that stands alone: "" where it is not.
_Key = tuple[str, str]


def _product(parameters: TimsParameters, name: str) -> _Key:
    found = parameters.classes.get(name)
    group = None if found is None else found.product_group
    return (name, "class") if group is None else (group, "")


def _portfolio(parameters: TimsParameters, key: _Key) -> _Key:
    if key[1]:
        return key
    group = parameters.group(key[0]).portfolio_group
    return (key[0], "product group") if group is None else (group, "")


def _share_in(parameters: TimsParameters, key: _Key) -> float:
    return 1.0 if key[1] else float(parameters.product_share(key[0]).value)


def _moves(types: Sequence[str], parameters: TimsParameters, steps: int) -> Floats:
    """[factor, point] evenly apart on each side of the price, from the lowest."""
    away = np.arange(1, steps + 1, dtype=np.float64)
    found = np.empty((len(types), 2 * steps))
    for row, type_ in enumerate(types):
        down, up = parameters.range_of(type_).value
        found[row] = np.concatenate([down * away[::-1] / steps, up * away / steps])
    return found


def _codes(names: Sequence[str | _Key], among: Sequence[str | _Key]) -> Ints:
    place = {name: code for code, name in enumerate(among)}
    return np.array([place[name] for name in names], dtype=np.int64)
