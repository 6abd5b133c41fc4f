"""How much pairs of product groups offset each other, asked of the rulebook itself.

A pair's offset is R(g) + R(h) - R(g and h): what a netting set requires for the positions of either
group alone, less what it requires for both together. For three groups or more, pairs' offsets do
not add up to the offset of all: they say which groups lean on each other, not how to share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.loading import Loaded
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Portfolio, add_up, row_offsets
from gpu_margin.result import Margin
from gpu_margin.result_tables import usable_sets
from gpu_margin.solvency import initial_of
from gpu_margin.subsets import Parts, parts_of, require_subsets
from gpu_margin.tiling import Clock, Lanes, Progress, Tile, stage_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Of the accounts, those whose groups offset most; of their groups, those that require most.
ACCOUNTS, GROUPS = 1000, 15


@dataclass(frozen=True)
class PairOffsets:
    """Pairs of groups in netting sets, [pair]: `first` < `second` are codes of groups.

    `account` is whose set it is; `separate` is what the groups require apart, `together` what they
    require as one, in margin currency. `separate - together` is their offset; of a value-at-risk it
    can be negative.
    """

    account: Ints
    first: Ints
    second: Ints
    separate: Floats
    together: Floats


def group_pairs(
    loaded: Loaded,
    lanes: Lanes,
    margins: Mapping[str, list[Margin]],
    report: Progress,
    clock: Clock,
) -> pl.DataFrame:
    """What pairs of groups offset each other, as `pair_table` has it, for every model.

    Asked for the `ACCOUNTS` accounts of each model whose groups save each other most, and for the
    `GROUPS` of their groups that require most: so many requirements more, however large the book.
    """
    asked = {name: _asked(loaded.portfolio, initial_of(all_)) for name, all_ in margins.items()}
    empty = np.zeros(0, dtype=np.int64)
    everyone = np.unique(np.concatenate([empty, *(accounts for accounts, _ in asked.values())]))

    def work(
        prepared: Mapping[str, Prepared], tile: Tile, portfolio: Portfolio
    ) -> dict[str, PairOffsets]:
        found = {}
        for name, (accounts, groups) in asked.items():
            place = np.searchsorted(everyone, accounts) - tile.start
            mine = place[(place >= 0) & (place < len(portfolio.accounts))]
            with stage_of(f"pairs {name}", clock):
                group = loaded.market.instruments.group
                pairs = pair_offsets(prepared[name], portfolio, group, mine, groups)
            found[name] = replace(pairs, account=pairs.account + tile.start)
        return found

    if not len(everyone):
        return _EMPTY
    tiles = lanes.run(loaded.portfolio.chosen(everyone), work, "pairs of groups", report)
    joined = {name: _joined([tile[name] for tile in tiles]) for name in asked}
    return pair_table(joined, loaded.market.groups)


def _asked(portfolio: Portfolio, margin: Margin) -> tuple[Ints, Ints]:
    """Accounts and groups whose pairs are of interest, both ascending codes."""
    accounts = most_offset(portfolio, margin, usable_sets(portfolio, margin) & (portfolio.bad == 0))
    groups = margin.groups
    theirs = np.isin(portfolio.set_account[groups.owner], accounts)
    return accounts, _largest(groups.part[theirs], groups.figures.requirement[theirs])


def most_offset(portfolio: Portfolio, margin: Margin, usable: Bools, most: int = ACCOUNTS) -> Ints:
    """Codes of the accounts whose groups save each other most, ascending; at most `most`.

    Of accounts all of whose sets are `usable` [set] only, and where groups save anything at all.
    """
    groups, account = margin.groups, portfolio.set_account
    apart = add_up(groups.owner, groups.figures.requirement, len(portfolio.sets))
    saved = np.where(usable, apart - margin.sets.requirement, 0.0)
    # What is within rounding of nothing is nothing.
    saved = np.where(saved > 1e-12 * apart, saved, 0.0)
    of_account = add_up(account, saved, len(portfolio.accounts))
    of_account[account[~usable]] = 0.0
    order = np.argsort(-of_account, kind="stable")[:most]
    return np.sort(order[of_account[order] > 0.0])


def pair_offsets(
    prepared: Prepared,
    portfolio: Portfolio,
    group: Ints,
    accounts: Ints,
    groups: Ints | None = None,
) -> PairOffsets:
    """What pairs of product groups save each other in the netting sets of some accounts.

    `group` [instrument] codes; `accounts` ascending codes of the portfolio; `groups` those that are
    paired, by default all of them.
    """
    book = portfolio.chosen(accounts)
    parts = parts_of(book.netted, group[book.netted.column])
    row, first, second = _pairs(parts, parts.code if groups is None else groups)
    both = np.stack([first, second], axis=1) - parts.offsets[row][:, None]
    alone = np.zeros(len(parts.code))
    each, place = np.unique(np.concatenate([first, second]), return_index=True)
    own, local = np.tile(row, 2)[place], both.T.ravel()[place]
    alone[each] = _require(prepared, parts, own, local[:, None])
    return PairOffsets(
        account=accounts[book.set_account[row]],
        first=parts.code[first],
        second=parts.code[second],
        separate=alone[first] + alone[second],
        together=_require(prepared, parts, row, both),
    )


def _joined(parts: list[PairOffsets]) -> PairOffsets:
    names = [field.name for field in fields(PairOffsets)]
    return PairOffsets(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    )


def pair_table(found: Mapping[str, PairOffsets], groups: pl.Series) -> pl.DataFrame:
    """Sums per model and pair (model, first, second, separate, together, offset, accounts).

    `groups` are the names of the codes.
    """
    return pl.concat([_EMPTY, *(_summed(model, pairs, groups) for model, pairs in found.items())])


_EMPTY = pl.DataFrame(
    schema={
        "model": pl.String,
        "first": pl.String,
        "second": pl.String,
        "separate": pl.Float64,
        "together": pl.Float64,
        "offset": pl.Float64,
        "accounts": pl.Int64,
    }
)


def _summed(model: str, pairs: PairOffsets, groups: pl.Series) -> pl.DataFrame:
    key = pairs.first * len(groups) + pairs.second
    each, place = np.unique(key, return_inverse=True)
    separate = add_up(place, pairs.separate, len(each))
    together = add_up(place, pairs.together, len(each))
    _, one = np.unique(np.stack([key, pairs.account]), axis=1, return_index=True)
    return pl.DataFrame(
        {
            "model": pl.Series([model] * len(each), dtype=pl.String),
            "first": groups.gather(each // max(len(groups), 1)).cast(pl.String),
            "second": groups.gather(each % max(len(groups), 1)).cast(pl.String),
            "separate": separate,
            "together": together,
            "offset": separate - together,
            "accounts": np.bincount(place[one], minlength=len(each)).astype(np.int64),
        },
        schema=_EMPTY.schema,
    )


def _require(prepared: Prepared, parts: Parts, row: Ints, place: Ints) -> Floats:
    """[subset] what the parts `place` [subset, part] of rows `row` [subset] require as one."""

    def inside(subset: Ints, local: Ints) -> Bools:
        return np.asarray((place[subset] == local[:, None]).any(axis=1), dtype=np.bool_)

    return require_subsets(prepared, parts, row, inside)


def _largest(code: Ints, alone: Floats) -> Ints:
    """The codes that require most in total, ascending; of equal ones the smaller."""
    total = add_up(code, alone, int(code.max(initial=-1)) + 1)
    return np.sort(np.argsort(-total, kind="stable")[:GROUPS])


def _pairs(parts: Parts, chosen: Ints) -> tuple[Ints, Ints, Ints]:
    """All pairs of chosen parts of the same row: the row, and numbers of both parts."""
    part = np.flatnonzero(np.isin(parts.code, chosen))
    row = np.repeat(np.arange(len(parts.rows)), parts.count)[part]
    end = row_offsets(row, len(parts.rows))[row + 1]
    later = end - np.arange(len(part)) - 1
    first = np.repeat(np.arange(len(part)), later)
    start = np.concatenate([[0], np.cumsum(later)])[:-1]
    second = first + 1 + np.arange(len(first)) - start[first]
    return row[first], part[first], part[second]
