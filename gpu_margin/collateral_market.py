"""A market in which collateral is something to hold: assets stand in it as spot instruments.

A rulebook prepared in it knows what an asset does in its scenarios, and positions and collateral
can be taken together. Instruments keep their codes; asset i follows them as instrument n + i.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.holdings import Assets
from gpu_margin.market import Instruments, Market

Ints = NDArray[np.int64]


def with_assets(market: Market, assets: Assets) -> Market:
    """The market with the assets as spot instruments after its own.

    One contract is one unit, worth `unit_value`. An asset without a factor does not move: its level
    is 0. Assets belong to the product group of the first instrument on their factor, and to a group
    of their own where there is none.
    """
    group, names = _groups(market, assets)
    moving = assets.factor >= 0
    own = market.instruments
    count = len(assets)
    instruments = Instruments(
        ids=pl.concat([own.ids, assets.ids.cast(own.ids.dtype)]),
        option=np.append(own.option, np.zeros(count, dtype=np.bool_)),
        call=np.append(own.call, np.zeros(count, dtype=np.bool_)),
        factor=np.append(own.factor, np.where(moving, assets.factor, 0)),
        group=np.append(own.group, group),
        scale=np.append(own.scale, np.where(moving, assets.unit_value, 0.0)),
        level=np.append(own.level, np.ones(count)),
        strike=np.append(own.strike, np.ones(count)),
        volatility=np.append(own.volatility, np.zeros(count)),
        time=np.append(own.time, np.zeros(count)),
        rate=np.append(own.rate, np.zeros(count)),
    )
    labels = {
        column: pl.concat([values, names.gather(group).cast(values.dtype)])
        for column, values in market.labels.items()
    }
    return replace(
        market, instruments=instruments, groups=names, history=assets.history, labels=labels
    )


def _groups(market: Market, assets: Assets) -> tuple[Ints, pl.Series]:
    """[asset] group codes, and the names of all groups, the market's own first."""
    own = market.instruments
    factors = len(assets.history.factors)
    first = np.full(factors + 1, -1, dtype=np.int64)
    # The last assignment stands: backwards, that is the first instrument of the factor.
    first[own.factor[::-1]] = own.group[::-1]
    found = np.where(assets.factor >= 0, first[assets.factor], -1)
    group = np.where(found >= 0, found, len(market.groups) + np.arange(len(assets)))
    names = pl.concat([market.groups.cast(pl.String), "collateral " + assets.ids.cast(pl.String)])
    return group, names
