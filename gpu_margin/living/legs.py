"""What-ifs in codes: from ids of accounts and instruments to arrays, one bad what-if at a time.

Ids are looked up in what the book knows at the time; codes never change but when a mark makes an
instrument valid, which the book finds by `epoch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.io.rules import LARGEST, SMALLEST
from gpu_margin.tracking.members import Members

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Account, netting set (None: the account's own) and quantity by instrument.
Asking = tuple[str, str | None, Mapping[str, float]]
# Field, value and reason.
Error = tuple[str, str, str]
# Which legs are bad, in what field, its values by leg, and why.
Check = tuple[Bools, str, Any, str]

_ACCOUNT = "unknown account: correct the id, or allow new ones"
_SET = "unknown netting set: correct the name, or allow new ones"
_INSTRUMENT = "unknown instrument: there is no valid instrument of that id"
_QUANTITY = f"quantity must be 0 or a number with a size in [{SMALLEST:g}, {LARGEST:g}]"


@dataclass(frozen=True)
class LiveLegs:
    """What-ifs in codes.

    `account` [what-if], -1 for a new one; `replaced` [what-if]: its account has nothing but these
    legs. Per leg, in any order: the `whatif` that it belongs to, the `netting_set` that it goes to
    (a code; -1, -2, ... for sets that its account does not have), the `instrument` (a code) and the
    `quantity`. A what-if with one of the `errors` has no legs, and no account.

    `asked` (whatif_id, account_id) [what-if] where a table was encoded. `again` encodes the same
    question anew, where codes are no longer those of `epoch`.
    """

    account: Ints
    replaced: Bools
    whatif: Ints
    netting_set: Ints
    instrument: Ints
    quantity: Floats
    epoch: int
    again: Callable[[], LiveLegs]
    errors: dict[int, Error] = field(default_factory=dict)
    asked: pl.DataFrame | None = None


@dataclass(frozen=True)
class Names:
    """Where ids are looked up."""

    members: Members
    instruments: Mapping[str, int]
    epoch: int


def encoded(
    names: Names,
    whatifs: Sequence[Asking],
    replaced: Sequence[bool] | None,
    allow_new: Sequence[bool] | bool,
    again: Callable[[], LiveLegs],
) -> LiveLegs:
    """What-ifs as clients write them; `replaced` and `allow_new` [what-if]."""
    members, instruments = names.members, names.instruments
    account: list[int] = []
    size: list[int] = []
    sets: list[int] = []
    columns: list[int] = []
    quantities: list[float] = []
    errors: dict[int, Error] = {}
    new = repeat(allow_new) if isinstance(allow_new, bool) else allow_new
    for number, ((one, name, positions), may_open) in enumerate(zip(whatifs, new, strict=False)):
        code, own = members.account_code(one), members.set_code(one, name)
        error = None
        if code < 0 and not may_open:
            error = ("account_id", str(one), _ACCOUNT)
        elif own < 0 and name is not None and name != one and not may_open:
            error = ("netting_set", name, _SET)
        found = [instruments.get(key, -1) for key in positions]
        if error is None and -1 in found:
            bad = next(key for key in positions if key not in instruments)
            error = ("instrument_id", str(bad), _INSTRUMENT)
        if error is not None:
            errors[number] = error
            account.append(-1)
            sets.append(-1)
            size.append(0)
            continue
        account.append(code)
        sets.append(own)
        size.append(len(found))
        columns += found
        quantities += positions.values()
    whatif = np.repeat(np.arange(len(size), dtype=np.int64), size)
    legs = LiveLegs(
        account=np.array(account, dtype=np.int64),
        replaced=_flags(replaced, len(size)),
        whatif=whatif,
        netting_set=np.array(sets, dtype=np.int64)[whatif],
        instrument=np.array(columns, dtype=np.int64),
        quantity=_numbers(quantities),
        epoch=names.epoch,
        again=again,
        errors=errors,
    )
    insane = ~_sane(legs.quantity)
    return _without(legs, [(insane, "quantity", quantities, _QUANTITY)]) if insane.any() else legs


def encoded_columns(
    names: Names,
    table: pl.DataFrame,
    replaced: bool,
    allow_new: bool,
    again: Callable[[], LiveLegs],
) -> LiveLegs:
    """What-ifs of a table (whatif_id, account_id, instrument_id, quantity, netting_set).

    Rows of one whatif_id and account are one what-if, in the order of their first rows;
    `netting_set` may be absent or null. Raises `KeyError` for any other column that is not there.
    """
    texts = {name: _text(table[name]) for name in ("whatif_id", "account_id", "instrument_id")}
    whatif, asked = _grouped(texts["whatif_id"], texts["account_id"])
    ids = asked["account_id"].to_list()
    account = _codes(names.members.account_codes, ids)
    instrument = _looked_up(names.instruments, texts["instrument_id"])
    quantity = table["quantity"].cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
    own = names.members.find(ids, None)[whatif]
    named = table["netting_set"] if "netting_set" in table.columns else None
    unnamed = np.zeros(len(whatif), dtype=np.bool_)
    if named is not None and named.null_count() < len(named):
        own, unnamed = _named_sets(names.members, texts["account_id"], _text(named), whatif)
    legs = LiveLegs(
        account=account,
        replaced=np.full(len(ids), replaced),
        whatif=whatif,
        netting_set=own,
        instrument=instrument,
        quantity=np.where(np.isfinite(quantity), quantity, np.nan),
        epoch=names.epoch,
        again=again,
        asked=asked,
    )
    checks: list[Check] = [
        (legs.instrument < 0, "instrument_id", texts["instrument_id"], _INSTRUMENT),
        (~_sane(legs.quantity), "quantity", table["quantity"], _QUANTITY),
    ]
    if not allow_new:
        unknown = (account < 0)[whatif]
        checks.insert(
            0, (unnamed, "netting_set", table.get_column("netting_set", default=None), _SET)
        )
        checks.insert(0, (unknown, "account_id", texts["account_id"], _ACCOUNT))
    return _without(legs, checks)


def _grouped(whatif: pl.Series, account: pl.Series) -> tuple[Ints, pl.DataFrame]:
    """[row] the number of its what-if, and the what-ifs (whatif_id, account_id)."""
    frame = pl.DataFrame({"whatif_id": whatif, "account_id": account})
    first = (whatif != whatif.shift()) | (account != account.shift())
    starts = first.fill_null(True).to_numpy().copy()
    starts[:1] = True
    runs = frame.filter(pl.Series(starts))
    if runs["whatif_id"].n_unique() == len(runs):
        return np.cumsum(starts) - 1, runs
    asked = frame.unique(maintain_order=True, keep="first")
    numbered = asked.with_row_index("number")
    joined = frame.join(
        numbered,
        on=["whatif_id", "account_id"],
        how="left",
        maintain_order="left",
        nulls_equal=True,
    )
    return joined["number"].cast(pl.Int64).to_numpy(), asked


def _named_sets(
    members: Members, accounts: pl.Series, names: pl.Series, whatif: Ints
) -> tuple[Ints, Bools]:
    """[row] codes of sets, -1, -2, ... by name for those that are not there; which these are."""
    own = names.is_null().to_numpy()
    filled = names.fill_null(accounts)
    found = members.find(accounts.to_list(), filled.to_list())
    rank = filled.rank("dense").fill_null(1).cast(pl.Int64).to_numpy()
    missing = (found < 0) & ~own & (filled != accounts).fill_null(True).to_numpy()
    return np.where(found >= 0, found, -rank), missing


def _without(legs: LiveLegs, checks: Sequence[Check]) -> LiveLegs:
    """The legs without the what-ifs of those that are bad; the first check that fails is said."""
    errors = dict(legs.errors)
    for bad, name, values, reason in checks:
        for leg in np.flatnonzero(bad).tolist():
            errors.setdefault(int(legs.whatif[leg]), (name, str(values[leg]), reason))
    if len(errors) == len(legs.errors):
        return legs
    account, wrong = legs.account.copy(), np.zeros(len(legs.account), dtype=np.bool_)
    wrong[list(errors)] = True
    account[wrong] = -1
    kept = ~wrong[legs.whatif]
    return replace(
        legs,
        account=account,
        whatif=legs.whatif[kept],
        netting_set=legs.netting_set[kept],
        instrument=legs.instrument[kept],
        quantity=legs.quantity[kept],
        errors=errors,
    )


def _codes(known: Mapping[str, int], ids: Sequence[str | None]) -> Ints:
    return np.fromiter(map(known.get, ids, repeat(-1)), dtype=np.int64, count=len(ids))  # type: ignore[arg-type]


def _looked_up(known: Mapping[str, int], texts: pl.Series) -> Ints:
    return _codes(known, texts.to_list())


def _text(values: pl.Series) -> pl.Series:
    return values if values.dtype == pl.String else values.cast(pl.String, strict=False)


def _flags(given: Sequence[bool] | None, count: int) -> Bools:
    return np.zeros(count, dtype=np.bool_) if given is None else np.array(given, dtype=np.bool_)


def _numbers(values: list[Any]) -> Floats:
    """As float64; NaN for what is no number."""
    if set(map(type, values)) <= {int, float}:
        return np.array(values, dtype=np.float64)
    plain = [float(one) if type(one) in (int, float) else np.nan for one in values]
    return np.array(plain, dtype=np.float64)


def _sane(quantity: Floats) -> Bools:
    size = np.abs(quantity)
    sane: Bools = ((size >= SMALLEST) & (size <= LARGEST)) | (size == 0.0)
    return sane
