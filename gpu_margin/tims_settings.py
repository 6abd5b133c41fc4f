"""Settings of the TIMS rulebook, and the figures behind them: each with its source and status.

Classes are what nets in full: all positions on one underlying, or on several that `class_of` puts
into one. A class has a type, which says how far prices are moved, and may be in a product group; a
product group may be in a portfolio group. Names that no market has today are no error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gpu_margin.settings import Settings

Status = Literal["confirmed", "unverified", "given"]

_PREFIX, _SUFFIX = "portfolio_margin_", ".json"

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1)]
# Lowest and highest return of the underlying's price.
Range = tuple[Annotated[float, Field(ge=-1, lt=0)], Annotated[float, Field(gt=0, le=100)]]


@dataclass(frozen=True)
class Figure:
    """A figure in use: the table's, "confirmed" or "unverified", or one that was "given"."""

    name: str
    value: Any
    status: Status
    source: str


class ClassGroup(Settings):
    """What a class is; by default of the default type and in no product group."""

    type: Name | None = Field(default=None, description="class type: one that has a range")
    product_group: Name | None = Field(default=None, description="product group, none by default")


class ProductGroup(Settings):
    """Classes whose gains offset each other's losses at the same point, by a share of the gain."""

    share: Share | None = Field(default=None, description="of gains; by default its type's")
    portfolio_group: Name | None = Field(default=None, description="none by default")


class PortfolioGroup(Settings):
    """Product groups whose net gains offset each other's net losses, by a share of the gain."""

    share: Share | None = Field(default=None, description="of gains; by default the table's")


class TimsParameters(Settings):
    """Settings of a model; what is not given is the table's."""

    table: str = Field(default="2026-11", description="version of the figures")
    programme: Literal["cpm", "rbh"] = Field(
        default="cpm", description="whose minimum per contract: customers' margin or haircuts"
    )
    minimum_per_contract: float | None = Field(
        default=None, ge=0, le=1e15, description="for one unit of the multiplier, in its currency"
    )
    default_type: Name = Field(
        default="equity_or_narrow_index", description="type of classes that are not listed"
    )
    ranges: dict[str, Range] = Field(
        default={}, description="lowest and highest move by class type; replaces, or adds a type"
    )
    class_of: dict[str, Name] = Field(
        default={}, description="class of an underlying; by default its own"
    )
    classes: dict[str, ClassGroup] = Field(default={}, description="classes by name")
    product_groups: dict[str, ProductGroup] = Field(default={}, description="by name")
    portfolio_groups: dict[str, PortfolioGroup] = Field(default={}, description="by name")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _known("product_groups", self.product_groups, self.product_names, "class")
        named = {group.portfolio_group for group in self.product_groups.values()}
        _known("portfolio_groups", self.portfolio_groups, named - {None}, "product group")
        for _ in self.figures():  # whether all there are is known
            pass
        return self

    @property
    def offset_column(self) -> str:
        """The column of the instruments table that the model reads beside the others."""
        return "kind"

    @property
    def product_names(self) -> set[str]:
        """Names of all product groups that a class is in."""
        return {one.product_group for one in self.classes.values() if one.product_group}

    def group(self, name: str) -> ProductGroup:
        """A product group; one that is not listed is in no portfolio group."""
        return self.product_groups.get(name, ProductGroup())

    def type_of(self, name: str) -> str:
        """The type of a class."""
        found = self.classes.get(name)
        return self.default_type if found is None else found.type or self.default_type

    def points_per_side(self) -> int:
        """How many valuation points there are below the price, and above it."""
        return int(_table(self.table)["points_per_side"].value)

    def range_of(self, type_: str) -> Figure:
        """Lowest and highest move of a class type; ValueError where the type is not known."""
        return self._figure(f"ranges.{type_}", self.ranges.get(type_))

    def minimum(self) -> Figure:
        """The minimum for one contract and one unit of its multiplier."""
        return self._figure(f"minimum_per_contract.{self.programme}", self.minimum_per_contract)

    def product_share(self, name: str) -> Figure:
        """The share of gains that counts in a product group; ValueError where none is known."""
        given = self.group(name).share
        inside = [key for key, one in self.classes.items() if one.product_group == name]
        types = sorted({self.type_of(key) for key in inside})
        if given is not None:
            return Figure(f"product_groups.{name}.share", given, "given", "settings")
        found = _table(self.table).get(f"product_group_share.{types[0]}")
        if len(types) > 1 or found is None:
            said = "of several types" if len(types) > 1 else f"of type {types[0]!r}"
            raise ValueError(
                f"product_groups.{name}: its classes are {said}, for which no share is known: "
                "give its share"
            )
        return found

    def portfolio_share(self, name: str) -> Figure:
        """The share of gains that counts between the product groups of a portfolio group."""
        given = self.portfolio_groups.get(name, PortfolioGroup()).share
        own = f"portfolio_groups.{name}.share"
        if given is not None:
            return Figure(own, given, "given", "settings")
        return self._figure("portfolio_group_share", None)

    def figures(self) -> Iterator[Figure]:
        """All figures that are in use, each once; ValueError where one is not known."""
        table, seen = _table(self.table), set()
        for figure in (table["points_per_side"], *self._in_use()):
            if figure.name not in seen:
                seen.add(figure.name)
                yield figure

    def _in_use(self) -> Iterator[Figure]:
        for type_ in sorted({self.default_type, *map(self.type_of, self.classes)}):
            yield self.range_of(type_)
        yield from (self.product_share(name) for name in sorted(self.product_names))
        groups = (self.group(name).portfolio_group for name in self.product_names)
        yield from map(self.portfolio_share, sorted({name for name in groups if name}))
        yield self.minimum()
        yield _table(self.table)["minimum_of_longs_up_to_market_value"]

    def _figure(self, name: str, given: Any) -> Figure:
        if given is not None:
            return Figure(name, given, "given", "settings")
        table = _table(self.table)
        if name not in table:
            kind, _, one = name.partition(".")
            known = sorted({key.partition(".")[2] for key in table if key.startswith(f"{kind}.")})
            listed = ", ".join([*known, *sorted(set(self.ranges) - set(known))])
            raise ValueError(f"unknown class type {one!r}: give {name}, or one of {listed}")
        return table[name]


def versions() -> list[str]:
    """Versions of the table that there are, in byte order."""
    names = (entry.name for entry in (files("gpu_margin") / "parameters" / "tims").iterdir())
    return sorted(
        name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        for name in names
        if name.startswith(_PREFIX) and name.endswith(_SUFFIX)
    )


def _known(key: str, listed: Mapping[str, Any], named: set[Any], by: str) -> None:
    """A group that nothing is in is misspelt."""
    unused = sorted(set(listed) - named)
    if unused:
        raise ValueError(f"{key}.{unused[0]}: no {by} is in it")


@cache
def _table(version: str) -> Mapping[str, Figure]:
    """The figures of a version by name; ValueError where there is no such version."""
    if version not in versions():
        raise ValueError(f"unknown table {version!r}; known versions: {', '.join(versions())}")
    path = files("gpu_margin") / "parameters" / "tims" / f"{_PREFIX}{version}{_SUFFIX}"
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {name: Figure(name, **figure) for name, figure in table["figures"].items()}
