"""Which columns of a CRIF count, by whatever spelling of their names, and which must be there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpu_margin.failures import Failure

# What a distinct sensitivity is made of, in this order.
KEY_COLUMNS = (
    *("im_model", "product_class", "risk_type"),
    *("qualifier", "bucket", "label1", "label2"),
)
AMOUNTS = ("amount_usd", "amount")
DATES = ("end_date", "valuation_date")
# Of the trade, in rows of Schedule.
NOTIONAL, NOTIONAL_CURRENCY = "notional", "notional_currency"
REGULATIONS = ("collect_regulations", "post_regulations")
COLUMNS = (
    *("portfolio_id", "trade_id"),
    *KEY_COLUMNS,
    *AMOUNTS,
    "amount_currency",
    *DATES,
    *REGULATIONS,
    *(NOTIONAL, NOTIONAL_CURRENCY),
)
_REQUIRED = ("product_class", "risk_type")
_PLAIN = {column.replace("_", ""): column for column in COLUMNS}


def known_columns(names: Sequence[str]) -> list[str | None]:
    """[column] our name of it, None where it does not count.

    Capitals, underscores, blanks and a leading "#" make no difference.
    """
    return [_PLAIN.get(re.sub("[^a-z0-9]", "", name.lower())) for name in names]


def column_faults(known: Sequence[str | None], source: str) -> list[Failure]:
    """What makes a table with these columns unusable."""
    present = [column for column in known if column is not None]
    twice = "column twice: it is not clear which counts, remove one"
    faults = [
        Failure(twice, source, field=column)
        for place, column in enumerate(present)
        if column in present[:place]
    ]
    faults += [
        Failure("missing column: add it or correct its header", source, field=column)
        for column in _REQUIRED
        if column not in present
    ]
    if not set(AMOUNTS) & set(present):
        way_out = "missing column: add it, or amount and amount_currency"
        faults.append(Failure(way_out, source, field="amount_usd"))
    return faults
