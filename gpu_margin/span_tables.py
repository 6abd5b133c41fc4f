"""What a SPAN risk parameter file says, as tables: what every reader of such files hands over.

Months are CCYYMM with a day or week code after it where there is one ("" is no month). Amounts are
money of the combined commodity's currency unless said; rates of percent are shares (0.5 is 50%).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ACCOUNT_TYPES = ("member", "hedger", "speculator")

# WFPR methods, as the numbers of PA2: as it is, capped at the price scan range, or that range.
NORMAL, CAPPED, SCAN_RANGE = 1, 2, 3
# Methods of spreads between combined commodities, as the numbers of PA2.
BY_DELTA, BY_TIERS, BY_SCANNING, BY_LEG_TIERS = 1, 2, 4, 20

_TEXT, _REAL, _WHOLE, _FLAG = pl.String, pl.Float64, pl.Int64, pl.Boolean

# A row per contract that has a risk array, in the order of the file. `delta_month` is the month its
# delta is held in (an option's underlying's, else its own); `right` is C, P or "". `price` is null
# where the file has none; `multiplier` makes money of a price; `delta` is the composite delta and
# `scaling` what it is multiplied by; `premium` says that an option's value was paid up front.
# `currency` is what arrays and values are in. The array's figures are divided by 10^`decimals`.
# `refused` says why it cannot be margined ("" where it can); `row` is its line.
CONTRACTS = pl.Schema(
    {
        "contract_id": _TEXT,
        "exchange": _TEXT,
        "combined_commodity": _TEXT,
        "product": _TEXT,
        "type": _TEXT,
        "future_month": _TEXT,
        "option_month": _TEXT,
        "delta_month": _TEXT,
        "right": _TEXT,
        "strike": _REAL,
        "price": _REAL,
        "multiplier": _REAL,
        "delta": _REAL,
        "scaling": _REAL,
        "premium": _FLAG,
        "currency": _TEXT,
        "decimals": _WHOLE,
        "refused": _TEXT,
        "row": _WHOLE,
    }
)

# `limit`: its option value counts up to its risk only. `wfpr` is NORMAL, CAPPED or SCAN_RANGE.
# `scan_by_month`, `inter_by_month`: every month is a tier. `minimum_rate` per short option, of all
# of them or (`minimum_greater`) of the greater of calls and puts. Factors make maintenance of risk,
# ratios initial margin. `grid` is a place in `SpanTables.grids`. `refused` as for contracts.
COMMODITIES = pl.Schema(
    {
        "combined_commodity": _TEXT,
        "exchange": _TEXT,
        "currency": _TEXT,
        "grid": _WHOLE,
        "limit": _FLAG,
        "wfpr": _WHOLE,
        "scan_by_month": _FLAG,
        "inter_by_month": _FLAG,
        "minimum_rate": _REAL,
        "minimum_greater": _FLAG,
        **{f"factor_{name}": _REAL for name in ACCOUNT_TYPES},
        **{f"ratio_{name}": _REAL for name in ACCOUNT_TYPES},
        "refused": _TEXT,
    }
)

# `kind` is scan, intra, inter or minimum; a bound without a day has all days of its month, an
# empty start and end is everything. `rate` is a minimum's, else null.
TIERS = pl.Schema(
    {
        "combined_commodity": _TEXT,
        "kind": _TEXT,
        "number": _WHOLE,
        "start": _TEXT,
        "end": _TEXT,
        "rate": _REAL,
    }
)

# Price scan range of a month, per delta (already divided by delta scaling): `up` for net short.
RANGES = pl.Schema({"combined_commodity": _TEXT, "month": _TEXT, "up": _REAL, "down": _REAL})

# Charges of a delivery month per delta: that spreads consumed, and that is left.
DELIVERY = pl.Schema(
    {"combined_commodity": _TEXT, "month": _TEXT, "consumed": _REAL, "outright": _REAL}
)

# Spreads within a combined commodity, in the order in which they are formed. `rate` is money per
# spread; where `weighted`, a share of the price risk of every leg that is credited.
INTRA = pl.Schema({"combined_commodity": _TEXT, "rate": _REAL, "weighted": _FLAG, "name": _TEXT})

# A leg of spread number `spread` of `intra`: a month, or (where that is "") an intra tier.
INTRA_LEGS = pl.Schema(
    {"spread": _WHOLE, "month": _TEXT, "tier": _WHOLE, "ratio": _REAL, "side": _WHOLE}
)

# Spreads between combined commodities, in the order in which they are formed; `above` are formed
# before those within. `flat` rates are money credited per spread, shared equally by the legs.
INTER = pl.Schema({"method": _WHOLE, "flat": _FLAG, "above": _FLAG, "least": _WHOLE, "name": _TEXT})

# A leg of spread number `spread` of `inter`; `side` is 1 (A) or -1 (B); `tier` 0 is the whole.
INTER_LEGS = pl.Schema(
    {
        "spread": _WHOLE,
        "combined_commodity": _TEXT,
        "ratio": _REAL,
        "side": _WHOLE,
        "tier": _WHOLE,
        "rate": _REAL,
        "required": _FLAG,
        "target": _FLAG,
    }
)

# What a contract on a combination is split into: `contract` and `leg` are rows of `contracts`.
# Where `replaced`, ratio x the position stands in the leg; else the position stays and only its
# delta moves to the legs.
SPLITS = pl.Schema({"contract": _WHOLE, "leg": _WHOLE, "ratio": _REAL, "replaced": _FLAG})

RATES = pl.Schema({"source": _TEXT, "target": _TEXT, "rate": _REAL})

SCHEMAS = {
    "contracts": CONTRACTS,
    "commodities": COMMODITIES,
    "tiers": TIERS,
    "ranges": RANGES,
    "delivery": DELIVERY,
    "intra": INTRA,
    "intra_legs": INTRA_LEGS,
    "inter": INTER,
    "inter_legs": INTER_LEGS,
    "splits": SPLITS,
    "rates": RATES,
}


@dataclass(frozen=True)
class Grid:
    """Scenarios of risk arrays.

    `pair` [point] is the place of the point with the same price and the opposite volatility, its
    own where there is none; `still` [point] says where the price does not move, in the order of
    points: the first of them has volatility up.
    """

    pair: Ints
    still: Bools

    def __len__(self) -> int:
        return len(self.pair)


# The sixteen scenarios of PA2.
SIXTEEN = Grid(
    np.array([1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 14, 15], dtype=np.int64),
    np.arange(16) < 2,
)


@dataclass(frozen=True)
class SpanTables:
    """A file as tables of the schemas above.

    `arrays` [contract, point] are for one bought, loss positive; a contract with fewer points than
    others has its first one again in the places after them. `limit`: option value of the whole
    account counts up to its risk only. `facts` is what else is told of the file (clearing, date,
    format, what margin it has). `failures`: lines that could not be used.
    """

    contracts: pl.DataFrame
    arrays: Floats
    commodities: pl.DataFrame
    tiers: pl.DataFrame
    ranges: pl.DataFrame
    delivery: pl.DataFrame
    intra: pl.DataFrame
    intra_legs: pl.DataFrame
    inter: pl.DataFrame
    inter_legs: pl.DataFrame
    splits: pl.DataFrame
    rates: pl.DataFrame
    failures: pl.DataFrame
    limit: bool = False
    grids: tuple[Grid, ...] = (SIXTEEN,)
    facts: Mapping[str, str] = field(default_factory=dict)
