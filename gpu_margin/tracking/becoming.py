"""What a tracked book becomes by marks, made beside what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpu_margin import loading
from gpu_margin.backend import Backend
from gpu_margin.config import Inputs, Model
from gpu_margin.resident import Vectors
from gpu_margin.tracking import tables
from gpu_margin.tracking.columns import merged
from gpu_margin.tracking.coverage import Coverage
from gpu_margin.tracking.events import Event, status_events
from gpu_margin.tracking.ledger import Ledger
from gpu_margin.tracking.marking import remarked
from gpu_margin.tracking.marks import Marks, Step
from gpu_margin.tracking.state import State, state_of

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Figures:
    """How figures are made: of which models, where, and with resident vectors or without."""

    models: Sequence[Model]
    backend: Backend
    resident: bool

    def of(self, state: State, known: Mapping[str, Ints]) -> list[Coverage]:
        """Every model's coverage of a state; statuses [account] are those that were `known`."""
        coverages = []
        with np.errstate(over="ignore", invalid="ignore"):
            for model in self.models:
                coverage = Coverage(state, model, self.backend, self.resident)
                coverage.measure_all()
                before = known.get(model.name)
                if before is None:
                    every = np.arange(len(coverage.status), dtype=np.int64)
                    coverage.status[:] = coverage.statuses(every)
                else:
                    coverage.status[: len(before)] = before
                coverages.append(coverage)
        return coverages


@dataclass(frozen=True)
class Next:
    """A book after marks: a state and its coverages, none without figures.

    `accounts` are those whose figures are other, and `events` what happened to them. `anew`: codes
    are not those of before, and `statuses` are by the new ones.
    """

    state: State
    coverages: list[Coverage]
    accounts: Ints
    events: list[Event]
    anew: bool
    statuses: dict[str, Ints]


def after_marks(
    state: State,
    steps: Sequence[Step],
    cash: Ledger,
    figures: Figures,
    coverages: Sequence[Coverage],
    spares: Sequence[Vectors | None],
    sequence: int,
) -> Next | None:
    """The book after the steps, `cash` being what is held then; None: it must be made anew.

    Without `coverages` none are made.
    """
    other = remarked(state, steps)
    if other is None:
        return None
    loaded, marks = replace(state.loaded, market=other.market), state.marks.after(steps)
    new = replace(state, loaded=loaded, marks=marks, forward=other.forward, holdings=cash)
    accounts, made, events = list[Ints](), list[Coverage](), list[Event]()
    with np.errstate(over="ignore", invalid="ignore"):
        for coverage, spare in zip(coverages, spares, strict=True):
            one, touched = coverage.at(new, other.moved, spare)
            events += happened(one, touched, sequence)
            made.append(one)
            accounts.append(touched)
    return Next(new, made, merged(accounts), events, False, {})


def anew(
    state: State,
    marks: Marks,
    cash: Ledger,
    figures: Figures,
    known: Mapping[str, Ints],
    measured: bool,
    sequence: int,
) -> Next:
    """The book at marks that made an instrument valid: everything is encoded again."""
    state = replace(state, marks=marks, holdings=cash)
    frames = tables.run_tables(state)
    owed = frames.pop("cash", None)
    config = state.loaded.config.model_copy(update={"inputs": Inputs()})
    new = state_of(loading.load_book(config, **frames), frames)
    new.set_sizes(tables.sizes_table(state))
    if owed is not None:
        new.add_cash(owed)
    statuses = {name: tables.carried(state, new, own) for name, own in known.items()}
    coverages = figures.of(new, statuses) if measured else []
    every = np.arange(len(new.members.accounts), dtype=np.int64)
    events = [event for one in coverages for event in happened(one, every, sequence)]
    return Next(new, coverages, every, events, True, statuses)


def happened(coverage: Coverage, accounts: Ints, sequence: int) -> list[Event]:
    """Note the accounts' statuses; a status that is lost stays noted."""
    after, known = coverage.statuses(accounts), coverage.status
    names, model = coverage.state.members.accounts, coverage.model.name
    events = status_events(sequence, names, model, accounts, known[accounts], after)
    known[accounts] = np.where(after >= 0, after, known[accounts])
    return events
