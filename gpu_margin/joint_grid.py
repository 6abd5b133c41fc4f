"""A grid of price and volatility moves per underlying, and what one contract makes in its cells.

Of every underlying the price moves alone, with the volatilities of all its options. Cells stand in
three blocks by the direction of the price: still, falling, rising. A worst loss of each block says
which direction the worst of all comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from gpu_margin import pricing
from gpu_margin.market import Instruments
from gpu_margin.settings import Settings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Directions of a price, in the order of the blocks.
STILL, FALLING, RISING = range(3)
SIGNS = (0.0, -1.0, 1.0)

_DAYS = 365.0
# Volatilities move by the root or so of 30 days by time to expiry.
_ANCHOR = 30.0
# Instruments x cells priced at a time.
_BLOCK_CELLS = 1 << 20

_Move = Annotated[float, Field(ge=-1, le=100, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Up = Annotated[float, Field(ge=0, le=100)]


class Tail(Settings):
    """A move beyond the grid, with volatilities up, of whose profit or loss a share counts."""

    price_move: _Move = Field(description="return of the underlying's price, as -0.66")
    share: _Share = Field(description="share of the profit or loss that counts")


class Grid(Settings):
    """Moves of an underlying's price and volatilities; every price move meets all three of these.

    The price also stays. A volatility is multiplied by 1 + up x g, 1 and 1 - down x g (at least 0),
    where g = (30 days / T)^power and T the time to expiry, at least `least_days`. Defaults: cells
    that venues publish for BTC, +-18% in steps of 4.5%, volatilities +50% and -30%.
    """

    price_moves: tuple[_Move, ...] = Field(
        default=(-0.18, -0.135, -0.09, -0.045, 0.045, 0.09, 0.135, 0.18),
        min_length=1,
        description="returns of the underlying's price",
    )
    volatility_up: _Up = Field(default=0.5, description="at 30 days to expiry, as a share")
    volatility_down: _Share = Field(default=0.3, description="at 30 days to expiry, as a share")
    short_power: _Up = Field(default=0.3, description="power of 30 days / T up to 30 days")
    long_power: _Up = Field(default=0.13, description="power of 30 days / T beyond")
    least_days: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="T is as long")
    tails: tuple[Tail, ...] = Field(default=(), description="moves beyond the grid")


class GridParameters(Settings):
    """The grid of all underlyings, and what is different for some."""

    grid: Grid = Field(default=Grid(), description="of every underlying")
    underlyings: dict[str, dict[str, Any]] = Field(
        default={}, description="keys of `grid` that are other ones for an underlying"
    )

    @model_validator(mode="after")
    def _known_grids(self) -> Self:
        for name in self.underlyings:
            try:
                self.grid_of(name)
            except ValidationError as error:
                fault = error.errors(include_url=False)[0]
                place = ".".join([name, *(str(part) for part in fault["loc"])])
                raise ValueError(f"underlyings.{place}: {fault['msg']}") from None
        return self

    def grid_of(self, underlying: str) -> Grid:
        """The grid of an underlying."""
        own = self.underlyings.get(underlying, {})
        return Grid.model_validate({**self.grid.model_dump(), **own})


@dataclass(frozen=True)
class Cells:
    """Cells of all underlyings, [factor, cell]: block after block, blocks of one width for all.

    `move` is the return of the price, `volatility` -1, 0 or 1 for down, same and up, `share` how
    much of the profit or loss counts. A cell that an underlying does not have is one without a
    move. `blocks` are the places of STILL, FALLING and RISING.
    """

    move: Floats
    volatility: Ints
    share: Floats
    grids: tuple[Grid, ...]
    blocks: tuple[slice, slice, slice]


def cells_of(parameters: GridParameters, factors: Sequence[str]) -> Cells:
    """The cells of the underlyings `factors`; the first of all is the one where nothing moves."""
    grids = tuple(parameters.grid_of(name) for name in factors)
    listed = [_listed(grid) for grid in grids]
    width = [max([1, *(len(own[way]) for own in listed)]) for way in range(len(SIGNS))]
    ends = np.cumsum([0, *width]).tolist()
    blocks = tuple(slice(first, last) for first, last in pairwise(ends))
    table = np.zeros((3, len(grids), ends[-1]))
    for number, own in enumerate(listed):
        for way, block in enumerate(blocks):
            found = np.array(own[way]).reshape(-1, 3).T
            table[:, number, block.start : block.start + found.shape[1]] = found
    move, volatility, share = table
    return Cells(move, volatility.astype(np.int64), share, grids, (blocks[0], blocks[1], blocks[2]))


def _listed(grid: Grid) -> Mapping[int, list[tuple[float, float, float]]]:
    """(move, volatility, share) of the cells of each direction."""
    moves = [0.0, *grid.price_moves]
    every = [(move, way, 1.0) for move in moves for way in (0.0, 1.0, -1.0)]
    every += [(tail.price_move, 1.0, tail.share) for tail in grid.tails]
    return {way: [cell for cell in every if np.sign(cell[0]) == SIGNS[way]] for way in range(3)}


def grid_pnl(instruments: Instruments, cells: Cells) -> Floats:
    """[instrument, cell] profit of one long contract, options by full revaluation on the host."""
    factor = instruments.factor
    count = cells.move.shape[1]
    pnl = np.empty((len(instruments), count))
    step = max(1, _BLOCK_CELLS // count)
    for start in range(0, len(instruments), step):
        block = slice(start, start + step)
        own = factor[block]
        worth = (instruments.scale * instruments.level)[block, None]
        pnl[block] = worth * (cells.share * cells.move)[own]
    options = np.flatnonzero(instruments.option)
    for start in range(0, len(options), step):
        chosen = options[start : start + step]
        pnl[chosen] = _option_pnl(instruments, chosen, cells)
    return pnl


def _option_pnl(i: Instruments, chosen: Ints, cells: Cells) -> Floats:
    """[chosen, cell] revaluation of the chosen options."""
    factor = i.factor[chosen]
    strike, time, rate, call = (term[chosen, None] for term in (i.strike, i.time, i.rate, i.call))
    forward, volatility = i.level[chosen, None], i.volatility[chosen, None]
    shocked = np.maximum(forward * (1.0 + cells.move[factor]), 0.0)
    moved = volatility * _multipliers(i.time[chosen], factor, cells)
    now = pricing.black76(forward, strike, volatility, time, rate, call)
    then = pricing.black76(shocked, strike, moved, time, rate, call)
    return i.scale[chosen, None] * cells.share[factor] * (then - now)


def _multipliers(time: Floats, factor: Ints, cells: Cells) -> Floats:
    """[option, cell] what volatilities are multiplied by; `time` to expiry in years."""
    up, down, short, long, least = (
        np.array([getattr(grid, name) for grid in cells.grids])[factor]
        for name in ("volatility_up", "volatility_down", "short_power", "long_power", "least_days")
    )
    days = np.maximum(time * _DAYS, least)
    scale = (_ANCHOR / days) ** np.where(days <= _ANCHOR, short, long)
    way = cells.volatility[factor]
    shock = np.where(way > 0, up[:, None], -down[:, None]) * scale[:, None]
    multiplier: Floats = np.where(way == 0, 1.0, np.maximum(1.0 + shock, 0.0))
    return multiplier
