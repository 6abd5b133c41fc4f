"""The client for asyncio; any number of tasks of one loop may share it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self, overload

import httpx
import polars as pl

from gpu_margin.client import connecting
from gpu_margin.client.calls import Answer, Calls, Row, order_of, whatif_of
from gpu_margin.client.events import SILENCE, Event, Listening
from gpu_margin.client.steps import Reply, Send, Sleep, Step, Steps, T


class AsyncClient:
    """`Client` for asyncio: the same calls and arguments, to be awaited."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        token: str | None = None,
        *,
        ca: connecting.Path | None = None,
        certificate: tuple[connecting.Path, connecting.Path] | None = None,
        timeout: float = 10.0,
        deadline: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        options = connecting.options(url, key, token, ca, certificate, timeout)
        self._http = httpx.AsyncClient(**options, transport=transport)
        self._timeout, self._calls = timeout, Calls(deadline)
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def account(self, account_id: str) -> Answer:
        """See `Client.account`."""
        return await self._run(self._calls.account(account_id))

    async def explain(self, account_id: str, model: str | None = None) -> Answer:
        """See `Client.explain`."""
        return await self._run(self._calls.explain(account_id, model))

    async def whatif(
        self,
        account_id: str,
        positions: Mapping[str, float],
        *,
        add_positions: bool = True,
        netting_set: str | None = None,
        allow_new: bool | None = None,
    ) -> Answer:
        """See `Client.whatif`."""
        options = {"netting_set": netting_set, "allow_new": allow_new}
        body = whatif_of(account_id, positions, add_positions=add_positions, **options)
        return await self._run(self._calls.whatif(body))

    @overload
    async def whatif_batch(self, whatifs: pl.DataFrame) -> pl.DataFrame: ...
    @overload
    async def whatif_batch(self, whatifs: Sequence[Row]) -> Answer: ...
    async def whatif_batch(self, whatifs: Sequence[Row] | pl.DataFrame) -> Answer | pl.DataFrame:
        """See `Client.whatif_batch`."""
        if isinstance(whatifs, pl.DataFrame):
            return await self._run(self._calls.whatif_table(whatifs))
        return await self._run(self._calls.whatif_batch(whatifs))

    async def check_order(
        self,
        account_id: str,
        instrument_id: str,
        quantity: float,
        *,
        netting_set: str | None = None,
        open_orders: Sequence[Row] = (),
    ) -> Answer:
        """See `Client.check_order`."""
        set_ = {"netting_set": netting_set}
        order = order_of(account_id, instrument_id, quantity, open_orders, **set_)
        return await self._run(self._calls.check_order(order))

    async def fills(self, fills: Sequence[Row] | pl.DataFrame, *, key: str | None = None) -> Answer:
        """See `Client.fills`."""
        async with self._turn:
            return await self._run(self._calls.change("fills", fills, key))

    async def marks(self, marks: Sequence[Row] | pl.DataFrame, *, key: str | None = None) -> Answer:
        """See `Client.marks`."""
        async with self._turn:
            return await self._run(self._calls.change("marks", marks, key))

    async def summary(self) -> Answer:
        """See `Client.summary`."""
        return await self._run(self._calls.summary())

    async def snapshot(self) -> Answer:
        """See `Client.snapshot`."""
        return await self._run(self._calls.snapshot())

    async def ready(self) -> bool:
        """See `Client.ready`."""
        return await self._run(self._calls.ready())

    async def wait_until_ready(self, timeout: float = 600.0) -> None:
        """See `Client.wait_until_ready`."""
        await self._run(self._calls.until_ready(timeout))

    async def events(self, after: str | int | None = None) -> AsyncIterator[Event]:
        """See `Client.events`."""
        start = (await self.summary())["state_seq"] if after is None else after
        listening = Listening(start, self._calls.deadline)
        while True:
            broken: Reply = None
            try:
                async with self._stream(listening.send) as reply:
                    if reply.is_success:
                        async for chunk in reply.aiter_bytes():
                            for event in listening.feed(chunk):
                                yield event
                    else:
                        await reply.aread()
                        broken = reply
            except httpx.TransportError as error:
                broken = error
            await asyncio.sleep(listening.broken(broken))

    def _stream(self, send: Send) -> AbstractAsyncContextManager[httpx.Response]:
        limits = httpx.Timeout(self._timeout, read=SILENCE)
        return self._http.stream(send.method, send.path, headers=send.headers, timeout=limits)

    async def _run(self, steps: Steps[T]) -> T:
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as done:
                result: T = done.value
                return result
            reply = await self._do(step)

    async def _do(self, step: Step) -> Reply:
        if isinstance(step, Sleep):
            await asyncio.sleep(step.seconds)
            return None
        limit = min(self._timeout, step.limit)
        try:
            return await self._http.request(**step.request, timeout=limit)
        except httpx.TransportError as error:
            return error
