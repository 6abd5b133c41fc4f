"""The client for programs that wait for each answer; any number of threads may share it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from threading import Lock
from types import TracebackType
from typing import Self, overload

import httpx
import polars as pl

from gpu_margin.client import connecting
from gpu_margin.client.calls import Answer, Calls, Row, order_of, whatif_of
from gpu_margin.client.events import SILENCE, Event, Listening
from gpu_margin.client.steps import Reply, Send, Sleep, Step, Steps, T


class Client:
    """A client of the server at `url`, with an API `key` or a `token` (JWT).

    `ca` is a file of certificates to trust and `certificate` the client's own with its key, for
    TLS. `timeout` seconds are given to each try, `deadline` to a call with all its tries.
    """

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        options = connecting.options(url, key, token, ca, certificate, timeout)
        self._http = httpx.Client(**options, transport=transport)
        self._timeout, self._calls = timeout, Calls(deadline)
        self._turn = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def account(self, account_id: str) -> Answer:
        """How an account stands: requirement by model and level, components, collateral, status."""
        return self._run(self._calls.account(account_id))

    def explain(self, account_id: str, model: str | None = None) -> Answer:
        """What each position contributes to the account's requirement, by model."""
        return self._run(self._calls.explain(account_id, model))

    def whatif(
        self,
        account_id: str,
        positions: Mapping[str, float],
        *,
        add_positions: bool = True,
        netting_set: str | None = None,
        allow_new: bool | None = None,
    ) -> Answer:
        """Initial margin before and after trades: contracts by instrument, negative ones sold.

        With `add_positions` false they stand instead of all that the account has.
        """
        options = {"netting_set": netting_set, "allow_new": allow_new}
        body = whatif_of(account_id, positions, add_positions=add_positions, **options)
        return self._run(self._calls.whatif(body))

    @overload
    def whatif_batch(self, whatifs: pl.DataFrame) -> pl.DataFrame: ...
    @overload
    def whatif_batch(self, whatifs: Sequence[Row]) -> Answer: ...
    def whatif_batch(self, whatifs: Sequence[Row] | pl.DataFrame) -> Answer | pl.DataFrame:
        """Many what-ifs of one state of the book.

        A list of what-ifs as `whatif` takes them (account_id, positions, ...), or a frame of legs
        (whatif_id, account_id, instrument_id, quantity), which gives a frame of answers.
        """
        if isinstance(whatifs, pl.DataFrame):
            return self._run(self._calls.whatif_table(whatifs))
        return self._run(self._calls.whatif_batch(whatifs))

    def check_order(
        self,
        account_id: str,
        instrument_id: str,
        quantity: float,
        *,
        netting_set: str | None = None,
        open_orders: Sequence[Row] = (),
    ) -> Answer:
        """Whether an order may enter the market beside the account's open ones, and how much."""
        set_ = {"netting_set": netting_set}
        order = order_of(account_id, instrument_id, quantity, open_orders, **set_)
        return self._run(self._calls.check_order(order))

    def fills(self, fills: Sequence[Row] | pl.DataFrame, *, key: str | None = None) -> Answer:
        """Book fills (fill_id, account_id, instrument_id, quantity, price, ...): durable on return.

        `key` is that of an `Unanswered` call that is made again with the same fills.
        """
        with self._turn:
            return self._run(self._calls.change("fills", fills, key))

    def marks(self, marks: Sequence[Row] | pl.DataFrame, *, key: str | None = None) -> Answer:
        """Mark instruments or factors (instrument_id or factor, field, value, time)."""
        with self._turn:
            return self._run(self._calls.change("marks", marks, key))

    def summary(self) -> Answer:
        """The book and the server at a glance."""
        return self._run(self._calls.summary())

    def snapshot(self) -> Answer:
        """Save the state now, so that a restart replays only what comes after it (scope admin)."""
        return self._run(self._calls.snapshot())

    def ready(self) -> bool:
        """Whether the server answers questions now."""
        return self._run(self._calls.ready())

    def wait_until_ready(self, timeout: float = 600.0) -> None:
        """Return when the server answers questions; `Unanswered` after `timeout` seconds."""
        self._run(self._calls.until_ready(timeout))

    def events(self, after: str | int | None = None) -> Iterator[Event]:
        """Calls, cures and liquidations as they come, for ever: from now, or after an id or state.

        A stream that breaks goes on where it was; `Unanswered` where it cannot within `deadline`.
        """
        start = self.summary()["state_seq"] if after is None else after
        listening = Listening(start, self._calls.deadline)
        while True:
            broken: Reply = None
            try:
                with self._stream(listening.send) as reply:
                    if reply.is_success:
                        for chunk in reply.iter_bytes():
                            yield from listening.feed(chunk)
                    else:
                        reply.read()
                        broken = reply
            except httpx.TransportError as error:
                broken = error
            time.sleep(listening.broken(broken))

    def _stream(self, send: Send) -> AbstractContextManager[httpx.Response]:
        limits = httpx.Timeout(self._timeout, read=SILENCE)
        return self._http.stream(send.method, send.path, headers=send.headers, timeout=limits)

    def _run(self, steps: Steps[T]) -> T:
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as done:
                result: T = done.value
                return result
            reply = self._do(step)

    def _do(self, step: Step) -> Reply:
        if isinstance(step, Sleep):
            time.sleep(step.seconds)
            return None
        limit = min(self._timeout, step.limit)
        try:
            return self._http.request(**step.request, timeout=limit)
        except httpx.TransportError as error:
            return error
