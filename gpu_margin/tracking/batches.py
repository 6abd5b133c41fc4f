"""Columns of fills become arrays: in one go where nothing is wrong with any, else rule by rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.failures import InputError, failure_table, join_failures
from gpu_margin.io.fill_tables import FILL_COLUMNS, FILL_OPTIONAL, load_fills
from gpu_margin.io.rules import LARGEST, SMALLEST
from gpu_margin.io.tables import NO_TEXT, ROW, Source, Table, read_table
from gpu_margin.tracking.state import Contracts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


# Tables take longer to make than a batch has time for.
NO_FAILURES = failure_table()


@dataclass(frozen=True)
class Fills:
    """Good fills of a batch of `received` rows, in their order, and the failures of the others.

    Per fill: `place`, from 1, among the rows of the batch, and `row`, its number in the file or
    frame that it was read from; `names` of netting sets, None where all are the accounts' own; the
    `instrument`'s code.
    """

    received: int
    place: Ints
    row: Ints
    ids: list[str]
    accounts: list[str]
    names: list[str] | None
    instrument: Ints
    quantity: Floats
    price: Floats
    fee: Floats
    failures: pl.DataFrame

    def distinct(self) -> Iterator[Fills]:
        """The fills in parts, one after another, in none of which an id stands twice."""
        known: set[str] = set()
        start = 0
        for place, one in enumerate(self.ids if len(set(self.ids)) < len(self.ids) else ()):
            if one in known:
                yield self.chosen(np.arange(start, place))
                known.clear()
                start = place
            known.add(one)
        yield self.chosen(np.arange(start, len(self.ids))) if start else self

    def chosen(self, some: Ints) -> Fills:
        """Some of the fills."""
        places = some.tolist()
        return Fills(
            self.received,
            self.place[some],
            self.row[some],
            [self.ids[place] for place in places],
            [self.accounts[place] for place in places],
            None if self.names is None else [self.names[place] for place in places],
            self.instrument[some],
            self.quantity[some],
            self.price[some],
            self.fee[some],
            self.failures,
        )


def joined(*failures: pl.DataFrame) -> pl.DataFrame:
    """Tables of failures as one, at no cost where there are none."""
    some = [table for table in failures if len(table)]
    return join_failures(some) if some else NO_FAILURES


def read_columns(source: Source | Mapping[str, Any] | Table, name: str, *columns: Any) -> Table:
    """A batch as a table: a frame, a file's path, or columns by name; `columns` as `read_table`.

    Raises `InputError` where columns are of different lengths.
    """
    if isinstance(source, Table):
        return source
    if isinstance(source, Mapping):
        try:
            source = pl.DataFrame([_series(key, values) for key, values in source.items()])
        except pl.exceptions.ShapeError as error:
            raise InputError(f"{name}: columns of different lengths: {error}") from error
    return read_table(source, name, *columns)


def fills_of(
    source: Source | Mapping[str, Any] | Table, contracts: Contracts, instruments: pl.DataFrame
) -> Fills:
    """The fills of a batch; `instruments` as `load_fills` wants them."""
    if isinstance(source, (pl.DataFrame, Mapping)):
        try:
            return _in_one_go(source, contracts)
        except _Doubt:
            pass
    table = read_columns(source, "fills", FILL_COLUMNS, FILL_OPTIONAL)
    if table.failures.is_empty():
        try:
            found = _in_one_go(table.frame, contracts)
            return replace(found, row=table.frame[ROW].to_numpy())
        except _Doubt:
            pass
    taken = load_fills(table, instruments)
    rows = taken.rows
    return Fills(
        received=len(table.frame),
        place=places(rows, table),
        row=rows[ROW].to_numpy(),
        ids=rows["fill_id"].to_list(),
        accounts=rows["account_id"].to_list(),
        names=rows["netting_set"].to_list(),
        instrument=rows["code"].to_numpy(),
        quantity=rows["quantity"].to_numpy(),
        price=rows["price"].to_numpy(),
        fee=rows["fee"].to_numpy(),
        failures=taken.failures,
    )


def fills_at_once(columns: Mapping[str, Any], contracts: Contracts) -> Fills | None:
    """The fills, if none of them breaks any rule; None where one may."""
    try:
        return _in_one_go(columns, contracts)
    except _Doubt:
        return None


class _Doubt(Exception):
    """Some value may break a rule: the rules must be asked."""


def _in_one_go(columns: pl.DataFrame | Mapping[str, Any], contracts: Contracts) -> Fills:
    """The fills, if none of them breaks any rule that `load_fills` has; raises `_Doubt`."""
    given = columns.columns if isinstance(columns, pl.DataFrame) else columns
    _sure(all(name in given for name in FILL_COLUMNS))
    ids, accounts, instruments = (_texts(columns[name]) for name in FILL_COLUMNS[:3])
    quantity, price = (_floats(columns[name]) for name in FILL_COLUMNS[3:])
    fee = _floats(columns["fee"]) if "fee" in given else np.zeros(len(ids))
    names = _names(columns["netting_set"], accounts) if "netting_set" in given else None
    lengths = {len(part) for part in (ids, accounts, instruments, quantity, price, fee)}
    _sure(lengths == {len(ids)})
    known = map(contracts.codes.get, instruments, repeat(-1))
    code = np.fromiter(known, dtype=np.int64, count=len(instruments))
    _sure(bool((code >= 0).all() and (quantity != 0.0).all()))
    _sure(bool(((price >= 0.0) | contracts.signed[code]).all()))
    place = np.arange(1, len(ids) + 1, dtype=np.int64)
    return Fills(
        received=len(ids),
        place=place,
        row=place,
        ids=ids,
        accounts=accounts,
        names=names,
        instrument=code,
        quantity=quantity,
        price=price,
        fee=fee,
        failures=NO_FAILURES,
    )


def _sure(holds: bool) -> None:
    if not holds:
        raise _Doubt


def _texts(values: Any) -> list[str]:
    """Values that are all text and not empty."""
    texts = _listed(values)
    _sure(set(map(type, texts)) == {str} and "" not in texts and NO_TEXT not in "".join(texts))
    return texts


def _names(values: Any, accounts: list[str]) -> list[str] | None:
    """Values that are all text or nothing: the account's own; None where all are nothing."""
    texts = _listed(values)
    _sure(set(map(type, texts)) <= {str, type(None)} and len(texts) == len(accounts))
    if not any(texts):
        return None
    _sure(NO_TEXT not in "".join(filter(None, texts)))
    return [name or account for name, account in zip(texts, accounts, strict=True)]


def _floats(values: Any) -> Floats:
    """Values that are all finite numbers of sane size."""
    if isinstance(values, pl.Series):
        _sure(values.dtype.is_numeric() and not values.null_count())
        values = values.cast(pl.Float64).to_numpy()
    elif not isinstance(values, np.ndarray):
        # NumPy would make a number of True.
        _sure(set(map(type, values)) <= {int, float})
    array = np.asarray(values)
    _sure(array.dtype.kind in "fiu" and array.ndim == 1)
    numbers: Floats = array.astype(np.float64, copy=False)
    size = np.abs(numbers)
    _sure(bool((((size >= SMALLEST) & (size <= LARGEST)) | (size == 0.0)).all()))
    return numbers


def places(rows: pl.DataFrame, table: Table) -> Ints:
    """[row] where rows of a table stand in it, from 1: not every table has all the numbers."""
    found: Ints = np.searchsorted(table.frame[ROW].to_numpy(), rows[ROW].to_numpy()) + 1
    return found


def _listed(values: Any) -> list[Any]:
    if isinstance(values, pl.Series):
        return values.to_list() if values.dtype in (pl.String, pl.Null) else [values]
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _series(name: str, values: Sequence[Any] | pl.Series | NDArray[Any]) -> pl.Series:
    """A column of any values: as it is where they are of one kind, else as text."""
    if isinstance(values, (pl.Series, np.ndarray)) and values.dtype != np.dtype(object):
        return pl.Series(name, values)
    items = list(values)
    kinds = {type(item) for item in items} - {type(None)}
    if kinds <= {int, float} or len(kinds) <= 1:
        return pl.Series(name, items, strict=False)
    return pl.Series(name, [None if item is None else str(item) for item in items])
