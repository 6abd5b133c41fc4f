"""From requirement to solvency: collateral beside positions, netting between venues, standing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin import owners
from gpu_margin.collateral import (
    STATUSES,
    Standing,
    eligible_value,
    haircut_value,
    standing,
    together,
)
from gpu_margin.covers import Cover, Held, cover_of, held_beside, moving
from gpu_margin.holdings import Assets, Holdings
from gpu_margin.loading import Loaded
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Portfolio, add_up, entry_rows
from gpu_margin.result import Margin
from gpu_margin.result_tables import usable_sets
from gpu_margin.tile_work import Answer, Beside
from gpu_margin.tiling import Clock, Lanes, Progress, Tile, stage_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SHOWN = ("initial", "maintenance", "excess", "utilisation", "call")


@dataclass(frozen=True)
class Covered:
    """The collateral of a run beside its positions; `held` is what a model must be asked about."""

    assets: Assets
    holdings: Holdings
    cover: Cover
    held: Held
    eligible: Floats
    in_scenarios: bool

    @property
    def beside(self) -> Beside | None:
        """What goes to the devices; None where no asset moves."""
        if not len(self.held.entry):
            return None
        value = self.assets.unit_value[self.holdings.rows.column[self.held.entry]]
        amount = self.eligible[self.held.entry]
        units = np.where(value > 0.0, amount / np.where(value > 0.0, value, 1.0), 0.0)
        return Beside(self.held, units, self.in_scenarios)


def covered(loaded: Loaded) -> Covered | None:
    """The collateral of the loaded book, None where there is no such table."""
    assets, holdings = loaded.assets, loaded.holdings
    if assets is None or holdings is None:
        return None
    cover = cover_of(loaded.portfolio, holdings)
    in_scenarios = loaded.config.collateral.mode == "in_scenarios"
    chosen = moving(assets, holdings, only_wrong_way=not in_scenarios)
    sets, first = len(loaded.portfolio.sets), len(loaded.market.instruments)
    held = held_beside(cover, holdings, chosen, first, sets)
    eligible = eligible_value(assets, holdings)
    return Covered(assets, holdings, cover, held, eligible, in_scenarios)


@dataclass(frozen=True)
class Netting:
    """Netting between venues: [set] what each bears, per model, and the table of owners."""

    borne: dict[str, Floats]
    owners: pl.DataFrame


def netting(
    loaded: Loaded,
    lanes: Lanes,
    margins: Mapping[str, list[Margin]],
    report: Progress,
    clock: Clock,
) -> Netting | None:
    """What owners' books require together; None where no agreement nets any."""
    ownership, portfolio = loaded.ownership, loaded.portfolio
    if ownership is None or not len(ownership.agreements):
        return None
    books = owners.merged_books(portfolio, ownership)
    joint = _joint(books.portfolio, list(margins), lanes, report, clock)
    borne, tables = {}, []
    for name, levels in margins.items():
        initial = initial_of(levels)
        own = np.where(usable_sets(portfolio, initial), initial.sets.requirement, 0.0)
        netted = owners.net(books, own, joint[name], ownership.agreements)
        borne[name] = owners.shares(books, own, netted)
        tables.append(owners.owner_table(books, ownership, netted, name, initial.level))
    return Netting(borne, pl.concat(tables))


def initial_of(margins: list[Margin]) -> Margin:
    """The initial level among the levels of a model."""
    return next(margin for margin in margins if margin.level == "initial")


def _joint(
    books: Portfolio, names: list[str], lanes: Lanes, report: Progress, clock: Clock
) -> dict[str, Floats]:
    """Per model the requirement [book] of merged books."""

    def work(
        prepared: Mapping[str, Prepared], tile: Tile, portfolio: Portfolio
    ) -> dict[str, Floats]:
        found = {}
        for name in names:
            with stage_of(f"netting {name}", clock):
                found[name] = prepared[name].require(portfolio.netted).amount
        return found

    tiles = lanes.run(books, work, "netting", report)
    return {name: np.concatenate([np.zeros(0), *(tile[name] for tile in tiles)]) for name in names}


def account_table(
    loaded: Loaded,
    found: Covered,
    answers: Mapping[str, Answer],
    borne: Mapping[str, Floats],
) -> pl.DataFrame:
    """How accounts and their netting sets stand, per model, as `Run.accounts` has it.

    `borne` [set of the portfolio] is what netting between venues leaves of a set's requirement.
    """
    tables = [
        _model_table(loaded, found, name, answer, borne.get(name))
        for name, answer in answers.items()
    ]
    return pl.concat(tables).sort(
        ["account_id", pl.col("netting_set").is_not_null(), "netting_set"], maintain_order=True
    )


def status_counts(accounts: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Per model, how many accounts have each status."""
    whole = accounts.filter(pl.col("netting_set").is_null())
    return {
        str(model): {
            **{status: int((part["status"] == status).sum()) for status in STATUSES},
            "unknown": part["status"].null_count(),
        }
        for (model,), part in whole.group_by("model", maintain_order=True)
    }


def _model_table(
    loaded: Loaded, found: Covered, name: str, answer: Answer, borne: Floats | None
) -> pl.DataFrame:
    cover, portfolio = found.cover, loaded.portfolio
    margin = initial_of(answer.margins)
    usable = usable_sets(portfolio, margin)
    required = _initial(found, margin, answer, borne)
    initial = _of_cover(cover.position, np.where(usable, required, np.nan), 0.0)
    value = _of_cover(cover.holding, _values(found, answer), 0.0)
    share = next(model for model in loaded.models if model.name == name).options.maintenance
    sets = standing(initial, value, share * initial, loaded.config.collateral)
    bad = _of_cover(cover.position, (portfolio.bad > 0) | ~usable, 0.0)
    bad += _of_cover(cover.holding, found.holdings.bad, 0.0)
    accounts = together(sets, cover.owner, len(cover.accounts))
    bad_account = np.bincount(cover.owner[bad > 0], minlength=len(cover.accounts)) > 0
    ids = cover.accounts.cast(pl.String)
    nobody = pl.Series([None] * len(ids), dtype=pl.String)
    whole = _table(ids, nobody, accounts, ~bad_account)
    own = ids.gather(cover.owner)
    # Where an account is one cross-margin set, the set is the account.
    named = pl.Series(np.bincount(cover.owner)[cover.owner] > 1) | (cover.sets != own)
    parts = _table(own, cover.sets, sets, bad == 0).filter(named)
    return pl.concat([whole, parts]).select(
        "account_id",
        "netting_set",
        pl.lit(name).alias("model"),
        pl.lit(loaded.market.currency).alias("currency"),
        "collateral_value",
        *_SHOWN[:4],
        "status",
        "call",
        "complete",
    )


def _initial(found: Covered, margin: Margin, answer: Answer, borne: Floats | None) -> Floats:
    """[set of the portfolio] the final requirement: with collateral inside, and netted."""
    own = margin.sets.requirement
    inside = found.in_scenarios and len(answer.covered) > 0
    required = answer.covered if inside else own
    if borne is None:
        return required
    return owners.scaled(required, own, borne) if inside else borne


def _values(found: Covered, answer: Answer) -> Floats:
    """[set of holdings] what the collateral is worth."""
    if found.in_scenarios:
        value = found.eligible
    else:
        losses = np.zeros(len(found.eligible))
        column = found.holdings.rows.column[found.held.entry]
        unit = found.assets.unit_value[column]
        rates = answer.rates if len(answer.rates) else np.zeros(len(unit))
        losses[found.held.entry] = rates / np.where(unit > 0.0, unit, 1.0)
        value = haircut_value(found.assets, found.holdings, losses)
    return add_up(entry_rows(found.holdings.rows), value, len(found.holdings))


def _of_cover(code: Ints, values: NDArray[np.generic], otherwise: float) -> Floats:
    """[set of the cover] values [code], and `otherwise` where there is no code."""
    padded = np.append(np.asarray(values, dtype=np.float64), otherwise)
    return padded[code]


def _table(
    account: pl.Series, netting_set: pl.Series, figures: Standing, complete: NDArray[np.bool_]
) -> pl.DataFrame:
    status = pl.Series([*STATUSES, None], dtype=pl.String).gather(
        np.where(figures.status < 0, len(STATUSES), figures.status)
    )
    return pl.DataFrame(
        {
            "account_id": account,
            "netting_set": netting_set.cast(pl.String),
            "collateral_value": figures.value,
            **{name: pl.Series(getattr(figures, name)).fill_nan(None) for name in _SHOWN},
            "status": status,
            "complete": complete,
        }
    )
