"""How far positions may offset each other: a cap on what that saves, and clusters that bound it.

EMIR RTS 153/2013 Art 27(4): of what offsets between product groups save, at most a share may count.
With M the requirement of positions together, G the requirements of their groups and c the share,
cap(M, G) = max(M, (1 - c) sum G + c M). Clusters partition the groups: positions offset inside a
cluster only, and the requirement is the sum over the clusters of cap().
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from gpu_margin.failures import ConfigError
from gpu_margin.market import Market
from gpu_margin.portfolio import Regrouped, Rows, add_up, regroup
from gpu_margin.settings import Settings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PRODUCT_GROUP = "product_group"


class OffsetParameters(Settings):
    """Settings of a model whose positions may offset each other."""

    offset_cap: float | None = Field(
        default=None, ge=0, le=1, description="share of the offset between groups that counts"
    )
    offset_column: str = Field(
        default=PRODUCT_GROUP, min_length=1, description="instruments' column that has the groups"
    )
    offset_clusters: list[list[str]] | None = Field(
        default=None, description="groups that offset each other; others stand alone"
    )
    unreliable_pairs: list[tuple[str, str]] = Field(
        default=[], description="groups whose offset is not reliable: never in one cluster"
    )


@dataclass(frozen=True)
class Offsets:
    """`group` and `cluster` [instrument] codes; `share` counts of what groups save each other."""

    share: float
    group: Ints
    cluster: Ints | None

    def required(self, rows: Rows, together: Callable[[Rows], Floats]) -> tuple[Floats, Floats]:
        """[row] what `together` says of rows, summed over the clusters: before and after the cap.

        `rows` are net positions on the host.
        """
        if self.cluster is None:
            base = together(rows)
            capped = self._capped(rows, base, np.arange(len(rows)), None, together)
            return base, capped
        parts = regroup(rows, self.cluster[rows.column])
        base = together(taken(rows, parts))
        capped = self._capped(rows, base, parts.owner, parts.part, together)
        count = len(rows)
        return add_up(parts.owner, base, count), add_up(parts.owner, capped, count)

    def _capped(
        self,
        rows: Rows,
        base: Floats,
        owner: Ints,
        cluster: Ints | None,
        together: Callable[[Rows], Floats],
    ) -> Floats:
        """[part] max(M, (1 - c) sum G + c M); part i is cluster[i] of row owner[i]."""
        if self.share == 1.0:
            return base
        groups = regroup(rows, self.group[rows.column])
        of_group = together(taken(rows, groups))
        part = self._part_of_group(rows, groups, owner, cluster)
        total = add_up(part, of_group, len(base))
        several = np.bincount(part, minlength=len(base)) > 1
        mixed = (1.0 - self.share) * total + self.share * base
        # A lone group saves nothing: its requirement is not to be changed by rounding.
        return np.where(several, np.maximum(base, mixed), base)

    def _part_of_group(
        self, rows: Rows, groups: Regrouped, owner: Ints, cluster: Ints | None
    ) -> Ints:
        """[group of a row] the part that it belongs to."""
        if cluster is None or self.cluster is None:
            return groups.owner
        first = groups.order[groups.offsets[:-1]]
        own = self.cluster[rows.column[first]]
        width = int(self.cluster.max(initial=0)) + 1
        found: Ints = np.searchsorted(owner * width + cluster, groups.owner * width + own)
        return found


def taken(rows: Rows, parts: Regrouped) -> Rows:
    """The entries of rows, as rows of the parts."""
    return Rows(parts.offsets, rows.column[parts.order], rows.value[parts.order])


def offsets_of(parameters: OffsetParameters, market: Market) -> Offsets | None:
    """What the parameters mean in a market; None where all positions of a set offset freely."""
    if parameters.offset_cap is None and parameters.offset_clusters is None:
        return None
    names, group = _groups(parameters.offset_column, market)
    share = 1.0 if parameters.offset_cap is None else parameters.offset_cap
    if parameters.offset_clusters is None:
        return Offsets(share, group, None)
    of_name = {
        name: number
        for number, cluster in enumerate(parameters.offset_clusters)
        for name in cluster
    }
    alone = len(parameters.offset_clusters)
    of_group = [of_name.get(name, alone + code) for code, name in enumerate(names)]
    return Offsets(share, group, np.array(of_group, dtype=np.int64)[group])


def check_offsets(parameters: OffsetParameters, market: Market) -> None:
    """Raise `ConfigError` where clusters overlap or let an unreliable pair offset.

    A group that no instrument has today is no error: the list may be that of all days.
    """
    _groups(parameters.offset_column, market)
    clusters = parameters.offset_clusters or []
    seen: dict[str, int] = {}
    for number, cluster in enumerate(clusters):
        for name in cluster:
            if name in seen:
                raise ConfigError(f"offset_clusters: group {name!r} stands in two clusters")
            seen[name] = number
    for first, second in parameters.unreliable_pairs:
        together = not clusters or (first in seen and seen[first] == seen.get(second))
        if first == second or together:
            raise ConfigError(
                f"offset_clusters: {first!r} and {second!r} are an unreliable pair, but may "
                "offset each other; put them into different clusters"
            )


def _groups(column: str, market: Market) -> tuple[list[str], Ints]:
    """Names of the groups and their codes [instrument]."""
    if column == PRODUCT_GROUP:
        return market.groups.to_list(), market.instruments.group
    labels = market.labels.get(column)
    if labels is None:
        raise ConfigError(f"offset_column: the instruments table has no column {column!r}")
    names = labels.unique().sort()
    codes = labels.to_frame("name").join(
        names.to_frame("name").with_row_index("code"), on="name", maintain_order="left"
    )
    return names.to_list(), codes["code"].cast(pl.Int64).to_numpy()
