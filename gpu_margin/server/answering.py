"""What the reader's thread does with questions: one batch, one turn at the book, plain answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.backend import Backend
from gpu_margin.collateral import STATUSES
from gpu_margin.config import Config, load_gate
from gpu_margin.gate import GateMarket, GateParameters, gate_market
from gpu_margin.gate_batch import OrderBatch, OrderDesk
from gpu_margin.live import LiveBook
from gpu_margin.living.asking import Asked
from gpu_margin.living.legs import LiveLegs
from gpu_margin.mark_board import MarkBoard, mark_board
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Rows, values_at
from gpu_margin.records import Record
from gpu_margin.server.board import mark_rows
from gpu_margin.server.messages import (
    Change,
    FailedWhatIf,
    NamedWhatIf,
    OrderCheck,
    OrderDecision,
    Status,
    WhatIf,
    WhatIfAnswer,
    WhatIfAnswers,
)
from gpu_margin.server.problems import Problem, busy
from gpu_margin.server.refusals import (
    as_problem,
    fault_of,
    no_gate,
    not_finite,
    table_fault,
    unknown_account,
)

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Answers = Sequence[Any]

# Without a gate nothing is ever throttled: returns count half after an hour.
_HALF_LIFE = 3600.0
_STATUS: tuple[Status | None, ...] = ("ok", "call", "liquidation", None)


class Answering:
    """Answers about a book. `board` is the marks of its underlyings, which `took` is told of.

    `failed` is told of a device that failed; the questions of that batch are answered with 503.
    """

    def __init__(
        self,
        book: LiveBook,
        config: Config,
        stale_seconds: float,
        failed: Callable[[Exception, Backend], None],
    ) -> None:
        self.book, self._stale_seconds, self._failed = book, stale_seconds, failed
        gate = load_gate(config)
        self._gate = gate if isinstance(gate, GateParameters) else None
        self._desk = None if self._gate is None else OrderDesk(self._gate, since=time.time())
        self._market: tuple[Prepared, GateMarket] | None = None
        self.board, self._epoch = self.new_board(book.core.state.marks.table()), book.core.epoch

    def new_board(self, marks: pl.DataFrame | None) -> MarkBoard:
        """A board of the book's market, with marks in force."""
        gate, market = self._gate, self.book.core.state.loaded.market
        if gate is None:
            return mark_board(market, _HALF_LIFE, self._stale_seconds, marks)
        return mark_board(market, gate.half_life_seconds, gate.stale_seconds, marks)

    def took(self, records: Sequence[Record]) -> None:
        """Tell the board of marks that the book has taken; for the writer's thread."""
        marks = [row for one in records if one.kind == "marks" for row in mark_rows(one)]
        if not marks:
            return
        with self.book.turns.changing():
            board = self._current()
        # Only this thread changes codes, so that they are still those of the book.
        after = board.after(marks)
        with self.book.turns.changing():
            self.board = after

    def _current(self) -> MarkBoard:
        """The board in the codes of the book, which change when an instrument becomes valid.

        In a turn: marks take effect in the book first.
        """
        core = self.book.core
        if core.epoch != self._epoch:
            new = self.new_board(core.state.marks.table())
            self.board, self._epoch = new.restored(self.board.table()), core.epoch
        return self.board

    def kinds(self) -> dict[str, Callable[[list[Any]], Answers]]:
        """By kind of question, what answers it."""
        return {
            "whatif": self.whatifs,
            "batch": self.batches,
            "table": self.tables,
            "order": self.orders,
            "account": self.accounts,
            "call": self.calls,
        }

    # ------------------------------------------------------------ what-ifs

    def whatifs(self, asked: list[WhatIf]) -> Answers:
        """Single what-ifs: all of them together."""
        found = self._answers(asked)
        return [one if isinstance(one, WhatIfAnswer) else as_problem(one) for one in found[1]]

    def batches(self, asked: list[list[NamedWhatIf]]) -> Answers:
        """Batches of what-ifs: one after another, so that each is of one state."""
        return [_each(self._batch_of, one) for one in asked]

    def tables(self, asked: list[pl.DataFrame]) -> Answers:
        """Tables of legs: a table of answers for each, and the state."""
        return [_each(self._table, one) for one in asked]

    def _batch_of(self, asked: list[NamedWhatIf]) -> WhatIfAnswers:
        return WhatIfAnswers(*self._answers(asked))

    def _answers(self, asked: Sequence[WhatIf]) -> tuple[int, list[WhatIfAnswer | FailedWhatIf]]:
        book = self.book
        legs = book.encode(
            [(one.account_id, one.netting_set, one.positions) for one in asked],
            [not one.add_positions for one in asked],
            [one.allow_new for one in asked],
        )
        found, stale = self._ask(legs)
        before, after, status = (
            {name: getattr(one, what).tolist() for name, one in found.models.items()}
            for what in ("before", "after", "status")
        )
        complete, lost, old = found.complete.tolist(), found.lost.tolist(), stale.tolist()
        answers: list[WhatIfAnswer | FailedWhatIf] = []
        for place, one in enumerate(asked):
            name = one.whatif_id if isinstance(one, NamedWhatIf) else None
            fault = fault_of(found, place, lost[place])
            changes = {}
            for model, values in after.items():
                new, old_value = values[place], before[model][place]
                if not (math.isfinite(new) and math.isfinite(old_value)):
                    fault = fault or not_finite(model)
                    break
                code = status[model][place]
                changes[model] = Change(old_value, new, new - old_value, _STATUS[code])
            if fault is not None:
                answers.append(FailedWhatIf(one.account_id, fault, name))
                continue
            answers.append(
                WhatIfAnswer(
                    one.account_id, found.state_seq, old[place], complete[place], changes, name
                )
            )
        return found.state_seq, answers

    def _ask(self, legs: LiveLegs) -> tuple[Asked, Bools]:
        """What a batch does, and [what-if] whether it rests on a stale mark."""
        with self.book.turns.asking():
            try:
                legs = self.book.fresh(legs)
                found = self.book.ask(legs)
                return found, self._stale_legs(legs)
            except Exception as error:
                raise self.lost(error) from error

    def lost(self, error: Exception) -> Problem:
        """A device failed: another one is found, and this is to be asked again. In a turn."""
        if isinstance(error, Problem):
            return error
        self._failed(error, self.book.backend)
        return busy("the device failed; the server goes on with another one", 2.0)

    def _table(self, table: pl.DataFrame) -> tuple[int, pl.DataFrame]:
        legs = self.book.encode_columns(table)
        found, stale = self._ask(legs)
        assert legs.asked is not None
        models, count = list(found.models.items()), len(legs.account)
        errors = (
            [table_fault(found, place) for place in range(count)]
            if (found.errors or found.lost.any())
            else [None] * count
        )

        def column(values: list[NDArray[Any]]) -> NDArray[Any]:
            return np.stack(values, axis=1).reshape(-1)

        row = np.repeat(np.arange(count), len(models))
        before, after = (
            column([getattr(one, w) for _, one in models]) for w in ("before", "after")
        )
        status = column([one.status for _, one in models])
        names = pl.Series(_STATUS, dtype=pl.String)
        answers = legs.asked[row].with_columns(
            pl.Series("model", [name for name, _ in models] * count, dtype=pl.String),
            pl.Series("before", before),
            pl.Series("after", after),
            pl.Series("change", after - before),
            names.gather(np.where(status < 0, len(STATUSES), status)).alias("status_after"),
            pl.Series("complete", found.complete[row]),
            pl.Series("stale_marks", stale[row]),
            pl.Series("error", errors, dtype=pl.String).gather(row),
        )
        unknown = pl.col("error").is_not_null() | ~pl.col("after").is_finite()
        figures = ("before", "after", "change", "status_after")
        return found.state_seq, answers.with_columns(
            pl.when(~unknown).then(pl.col(figures)),
            pl.when(pl.col("error").is_null() & unknown)
            .then(pl.lit("the requirement is not finite"))
            .otherwise("error")
            .alias("error"),
        )

    # ------------------------------------------------------------ stale marks

    def _stale_legs(self, legs: LiveLegs) -> Bools:
        """[what-if] whether an underlying of its account or legs has no fresh mark; in a turn."""
        now, board, state = time.time(), self._current(), self.book.core.state
        stale = board.stale(now, self._stale_seconds)
        found = np.zeros(len(legs.account), dtype=np.bool_)
        if not stale.any():
            return found
        underlying = board.places.underlying
        found[legs.whatif[stale[underlying[legs.instrument]]]] = True
        known = np.flatnonzero(legs.account >= 0)
        owner, sets = state.members.sets_of(legs.account[known])
        old = board.stale_sets(state.positions.rows(sets), now, self._stale_seconds)
        found[known[owner[old]]] = True
        return found

    def _stale_account(self, code: int) -> bool:
        now, board, state = time.time(), self._current(), self.book.core.state
        # As a rule there is none: then the account's positions need not be looked at.
        if not board.stale(now, self._stale_seconds).any():
            return False
        sets = np.array(state.members.sets_of_one(code), dtype=np.int64)
        return bool(board.stale_sets(state.positions.rows(sets), now, self._stale_seconds).any())

    @property
    def mark_age(self) -> float | None:
        """Seconds since the oldest mark of an underlying, None where some have none."""
        age = time.time() - float(self.board.time.min(initial=math.inf))
        return age if math.isfinite(age) else None

    def any_stale(self) -> bool:
        """Whether some underlying has no fresh mark."""
        return bool(self.board.stale(time.time(), self._stale_seconds).any())

    # ------------------------------------------------------------ orders

    def orders(self, asked: list[OrderCheck]) -> Answers:
        """The gate on orders, each on its own."""
        gate, desk, book = self._gate, self._desk, self.book
        if gate is None or desk is None:
            return [no_gate()] * len(asked)
        answers: list[Any] = [
            None if book.code(one.account_id) >= 0 else unknown_account(one.account_id)
            for one in asked
        ]
        fine = [number for number, one in enumerate(answers) if one is None]
        chosen = [asked[number] for number in fine]
        with book.turns.asking():
            try:
                batch, stale = self._batch(gate, chosen)
                decided = desk.decide(batch, [one.account_id for one in chosen])
                state_seq = book.sequence
            except Exception as error:
                return [self.lost(error)] * len(asked)
        for number, one, old in zip(fine, decided, stale.tolist(), strict=True):
            answers[number] = OrderDecision(
                one.action,
                one.quantity,
                one.rule,
                one.message,
                _finite(one.limit),
                _finite(one.bound),
                _finite(one.worst_fill_before),
                _finite(one.worst_fill_after),
                one.wait_seconds,
                state_seq,
                old,
            )
        return answers

    def _batch(self, gate: GateParameters, asked: list[OrderCheck]) -> tuple[OrderBatch, Bools]:
        """Orders in codes, in a turn."""
        book, state = self.book, self.book.core.state
        sets = np.array([book.set_code(one.account_id, one.netting_set) for one in asked], np.int64)
        inputs = book.gate_inputs(gate.model, sets)
        code = book.instrument_code
        opened = [[(code(o.instrument_id), o.quantity) for o in one.open_orders] for one in asked]
        size = np.cumsum([0, *map(len, opened)])
        flat = [pair for one in opened for pair in one]
        lost = values_at(state.lost, sets, 0) > 0
        now = time.time()
        batch = OrderBatch(
            market=self._gate_market(inputs.prepared),
            marks=self._current(),
            instrument=np.array([code(one.instrument_id) for one in asked], dtype=np.int64),
            quantity=np.array([one.quantity for one in asked], dtype=np.float64),
            time=np.full(len(asked), now),
            collateral=np.where(lost, np.nan, inputs.collateral),
            last_order=np.full(len(asked), -np.inf),
            books=inputs.rows,
            open_orders=Rows(
                size.astype(np.int64),
                np.array([one for one, _ in flat], dtype=np.int64),
                np.array([quantity for _, quantity in flat], dtype=np.float64),
            ),
            vector=inputs.line,
            vectors=inputs.matrix,
        )
        stale = self._current().stale_sets(inputs.rows, now, self._stale_seconds)
        return batch, stale

    def _gate_market(self, prepared: Prepared) -> GateMarket:
        if self._market is None or self._market[0] is not prepared:
            market = self.book.core.state.loaded.market
            self._market = prepared, gate_market(prepared, market, self.book.backend)
        return self._market[1]

    # ------------------------------------------------------------ accounts, and all else

    def accounts(self, asked: list[str]) -> Answers:
        """How accounts stand."""
        with self.book.turns.asking():
            return [self._account(one) for one in asked]

    def _account(self, account_id: str) -> Any:
        found = self.book.account(account_id)
        if found is None:
            return unknown_account(account_id)
        sets = found.pop("netting_sets")
        for name, figures in found["models"].items():
            figures["netting_sets"] = [
                _set(one["netting_set"], one["models"][name]) for one in sets
            ]
        return {**found, "stale_marks": self._stale_account(self.book.code(account_id))}

    def calls(self, asked: list[Callable[[], Any]]) -> Answers:
        """Whatever else needs a turn: functions, each in a turn of its own."""
        return [self._called(one) for one in asked]

    def _called(self, work: Callable[[], Any]) -> Any:
        try:
            with self.book.turns.asking():
                return work()
        except Exception as error:
            return error


def _each(work: Callable[[Any], Any], asked: Any) -> Any:
    """What it returns, or the exception that it raises: others of the batch are not to blame."""
    try:
        return work(asked)
    except Exception as error:
        return error


def _set(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    """A netting set as `messages.NettingSet`."""
    value = figures["collateral_value"]
    return {
        "netting_set": name,
        "requirement": figures["levels"]["initial"],
        "collateral_value": value,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
