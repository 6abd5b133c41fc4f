"""The routes that must be fast: accounts, what-ifs, order checks, fills and marks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from gpu_margin.records import Kind
from gpu_margin.server.access import Access, Principal
from gpu_margin.server.app import Answer, Request, Route
from gpu_margin.server.arrow_tables import read_table, too_many, write_arrow
from gpu_margin.server.audit import Audit
from gpu_margin.server.bodies import ARROW, Codec, encoded
from gpu_margin.server.feeding import columns_of
from gpu_margin.server.log import Entry, digest
from gpu_margin.server.mark_times import WAY_OUT, first_ahead
from gpu_margin.server.messages import (
    Fills,
    Marks,
    OrderCheck,
    WhatIf,
    WhatIfAnswers,
    WhatIfBatch,
)
from gpu_margin.server.problems import Problem, busy
from gpu_margin.server.reader import Reader
from gpu_margin.server.settings import Limits
from gpu_margin.server.writer import Writer

_KEY_LENGTH = 128
_LEG_COLUMNS = ("whatif_id", "account_id", "instrument_id", "quantity")
_FILL_COLUMNS = ("fill_id", "account_id", "instrument_id", "quantity", "price")
_FILL_OPTIONAL = ("netting_set", "fee")
_MARK_COLUMNS = ("field", "value", "time")
_MARK_OPTIONAL = ("instrument_id", "factor")


@dataclass
class Threads:
    """Who answers: None while the book is being loaded."""

    reader: Reader | None = None
    writer: Writer | None = None


class HotRoutes:
    """Decodes, checks, asks, encodes."""

    def __init__(self, threads: Threads, access: Access, audit: Audit, limits: Limits) -> None:
        self._threads, self._access, self._audit, self._limits = threads, access, audit, limits
        self._whatif, self._batch = Codec(WhatIf), Codec(WhatIfBatch)
        self._order, self._fills, self._marks = Codec(OrderCheck), Codec(Fills), Codec(Marks)

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("GET", "/v1/accounts/{account_id}", "read", self.account),
            Route("POST", "/v1/whatif", "whatif", self.whatif),
            Route("POST", "/v1/whatif/batch", "whatif", self.whatif_batch),
            Route("POST", "/v1/orders/check", "trade", self.check_order),
            Route("POST", "/v1/fills", "trade", self.fills),
            Route("POST", "/v1/marks", "trade", self.marks),
        ]

    # ------------------------------------------------------------ questions

    async def account(self, request: Request) -> Answer:
        """GET accounts/{id}."""
        self._visible(request.principal, [request.path_id])
        return encoded(request, await self._reader().ask("account", request.path_id))

    async def whatif(self, request: Request) -> Answer:
        """POST whatif."""
        asked: WhatIf = self._whatif.decode(request)
        self._visible(request.principal, [asked.account_id])
        self._check_legs(len(asked.positions), "positions")
        self._audit.count_whatif(request.principal.name, 1)
        return encoded(request, await self._reader().ask("whatif", asked))

    async def whatif_batch(self, request: Request) -> Answer:
        """POST whatif/batch: JSON or msgpack, or an Arrow table of legs."""
        if request.content_type() == ARROW:
            return await self._whatif_table(request)
        asked: WhatIfBatch = self._batch.decode(request)
        self._check_count(len(asked.whatifs), "whatifs")
        for place, one in enumerate(asked.whatifs):
            self._check_legs(len(one.positions), f"whatifs[{place}].positions")
        self._visible(request.principal, {one.account_id for one in asked.whatifs})
        self._audit.count_whatif(request.principal.name, len(asked.whatifs))
        found: WhatIfAnswers = await self._reader().ask("batch", asked.whatifs)
        return encoded(request, found)

    async def _whatif_table(self, request: Request) -> Answer:
        limits = self._limits
        table = await asyncio.to_thread(
            read_table,
            request.body,
            _LEG_COLUMNS,
            ("netting_set",),
            limits.max_batch * limits.max_legs,
        )
        self._check_count(table.n_unique(["whatif_id", "account_id"]), "whatif_id")
        if request.principal.tenant is not None:
            self._visible(request.principal, table["account_id"].unique().to_list())
        state_seq, answers = await self._reader().ask("table", table)
        self._audit.count_whatif(request.principal.name, len(answers))
        body = await asyncio.to_thread(write_arrow, answers)
        return Answer(body, ARROW, ((b"x-state-seq", str(state_seq).encode()),))

    async def check_order(self, request: Request) -> Answer:
        """POST orders/check."""
        asked: OrderCheck = self._order.decode(request)
        self._visible(request.principal, [asked.account_id])
        self._check_legs(len(asked.open_orders), "open_orders")
        return encoded(request, await self._reader().ask("order", asked))

    # ------------------------------------------------------------ changes

    async def fills(self, request: Request) -> Answer:
        """POST fills."""
        if request.content_type() == ARROW:
            rows = await self._table_rows(request, _FILL_COLUMNS, _FILL_OPTIONAL)
        else:
            decoded: Fills = self._fills.decode(request)
            rows = columns_of("fills", decoded.fills)
        accounts = rows["account_id"]
        if request.principal.tenant is not None:
            self._visible(request.principal, set(accounts))
        return await self._change(request, "fills", rows, len(accounts))

    async def marks(self, request: Request) -> Answer:
        """POST marks: prices are everybody's, so that no tenant may set them."""
        if request.principal.tenant is not None:
            raise Problem(
                403,
                "forbidden",
                "a key of a tenant may not mark the market of all",
                way_out="mark with a key that has no tenant",
            )
        if request.content_type() == ARROW:
            rows = await self._table_rows(request, _MARK_COLUMNS, _MARK_OPTIONAL)
        else:
            decoded: Marks = self._marks.decode(request)
            rows = columns_of("marks", decoded.marks)
        self._check_count(len(rows["field"]), "marks")
        self._check_times(rows["time"])
        return await self._change(request, "marks", rows, len(rows["field"]))

    async def _table_rows(
        self, request: Request, required: tuple[str, ...], optional: tuple[str, ...]
    ) -> dict[str, list[Any]]:
        """The columns of an Arrow body."""
        most = self._limits.max_batch
        work = partial(_plain_rows, request.body, required, optional, most)
        return await asyncio.to_thread(work)

    async def _change(
        self, request: Request, kind: Kind, rows: dict[str, list[Any]], count: int
    ) -> Answer:
        """Log it, apply it, then say what became of it."""
        self._check_count(count, kind)
        if not count:
            raise Problem(422, "invalid", f"there are no {kind}", field=kind)
        client = request.principal.name
        entry = Entry(client, _sequence(request), _key(request), digest(kind, rows), kind, rows)
        if self._threads.writer is None:
            raise loading()
        found = await asyncio.wrap_future(self._threads.writer.submit([entry]))
        answer = found[0]
        if isinstance(answer, Problem):
            raise answer
        self._audit.note(
            kind,
            client,
            seq=answer["state_seq"],
            rows=count,
            applied=answer["applied"],
            request_id=request.id,
        )
        return encoded(request, answer)

    # ------------------------------------------------------------ limits

    def _reader(self) -> Reader:
        if self._threads.reader is None:
            raise loading()
        return self._threads.reader

    def _visible(self, principal: Principal, accounts: Iterable[str]) -> None:
        if principal.tenant is None:
            return
        for account in accounts:
            if not self._access.may_see(principal, account):
                raise foreign_account(account)

    def _check_legs(self, count: int, field: str) -> None:
        if count > self._limits.max_legs:
            raise too_many(field, self._limits.max_legs)

    def _check_count(self, count: int, field: str) -> None:
        if count > self._limits.max_batch:
            raise too_many(field, self._limits.max_batch)

    def _check_times(self, times: list[Any]) -> None:
        found = first_ahead(times, self._limits.mark_ahead_seconds)
        if found is not None:
            field = f"marks[{found.row}].time"
            raise Problem(422, "invalid", found.detail, field=field, way_out=WAY_OUT)


def foreign_account(account_id: str) -> Problem:
    """403: not of the tenant, or not there; which of the two is not said."""
    return Problem(
        403,
        "foreign-account",
        f"{account_id!r} is no account of this key's tenant",
        field="account_id",
        way_out="ask about accounts of your own",
    )


def loading() -> Problem:
    """503 while there is no book."""
    return busy("the book is being loaded; see /ready", 2.0)


def _sequence(request: Request) -> int:
    given = request.headers.get(b"client-sequence", b"")
    if not (given.isdigit() and len(given) <= 18 and int(given) > 0):
        raise Problem(
            422,
            "invalid",
            "a whole number from 1 on, one more with every request of this client",
            field="Client-Sequence",
            way_out="number your requests; after a gap the answer 409 says what is expected",
        )
    return int(given)


def _key(request: Request) -> str:
    given = request.headers.get(b"idempotency-key", b"")
    if not 0 < len(given) <= _KEY_LENGTH or not all(0x21 <= one <= 0x7E for one in given):
        raise Problem(
            422,
            "invalid",
            f"1 to {_KEY_LENGTH} visible ASCII characters",
            field="Idempotency-Key",
            way_out="send a new UUID with every new request, the same one when you try again",
        )
    return given.decode()


def _plain_rows(
    body: bytes, required: tuple[str, ...], optional: tuple[str, ...], most: int
) -> dict[str, list[Any]]:
    return read_table(body, required, optional, most).to_dict(as_series=False)
