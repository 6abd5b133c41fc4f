"""Rows on the host and on a device, and the portfolios that lie on one already."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from gpu_margin.backend import Backend
from gpu_margin.portfolio import Portfolio, Rows, regroup

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Placed:
    """The same rows on the host and on a device."""

    host: Rows
    device: Rows


@dataclass(frozen=True)
class Book:
    """A portfolio on a device: net positions by netting set, and by set and product group.

    Row i of `groups` is group part[i] of set owner[i], groups being the codes `group` [instrument].
    """

    backend: Backend
    group: Ints
    sets: Placed
    groups: Placed
    owner: Ints
    part: Ints


# What lies on the devices, as long as the portfolio lives: all models of a run, and all requests to
# a server, find it there.
_BOOKS: WeakKeyDictionary[Portfolio, list[Book]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def book_of(portfolio: Portfolio, group: Ints, backend: Backend) -> Book:
    """The portfolio on the device; brought there the first time that it is asked for."""
    with _LOCK:
        books = _BOOKS.setdefault(portfolio, [])
    for book in list(books):
        if book.backend is backend and book.group is group:
            return book
    rows = portfolio.netted
    parts = regroup(rows, group[rows.column])
    by_group = Rows(parts.offsets, rows.column[parts.order], rows.value[parts.order])
    sets, groups = placed(rows, backend), placed(by_group, backend)
    books.append(Book(backend, group, sets, groups, parts.owner, parts.part))
    return books[-1]


def placed(rows: Rows, backend: Backend) -> Placed:
    """The rows, and a copy of them on the device."""
    device = backend.to_device
    there = Rows(device(rows.offsets), device(rows.column), device(rows.value))
    return Placed(rows, there)
