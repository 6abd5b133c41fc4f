"""What the slow routes and the page need of the server behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal, Protocol

from gpu_margin.server.metrics import Metrics

Scope = Literal["read", "whatif", "trade", "admin"]


class Caller(Protocol):
    """Who asks: a principal that has been authenticated, `tenant` None for the whole book."""

    @property
    def name(self) -> str:
        """The key's or the token's name."""
        ...

    @property
    def scopes(self) -> frozenset[Scope]:
        """What it may do."""
        ...

    @property
    def tenant(self) -> str | None:
        """Whose accounts it sees; None: all."""
        ...


class Service(Protocol):
    """The server behind the slow routes; its answers are of the shapes in `answers`.

    Every method but `ready` raises `Problem`: 503 while the book is loading, 403 for an account
    that is not the caller's tenant's or does not exist. Scopes have been checked before.
    """

    @property
    def metrics(self) -> Metrics:
        """What is measured."""
        ...

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether questions are answered, and how far loading has come."""
        ...

    async def summary(self, principal: Caller) -> dict[str, Any]:
        """The book and the server at a glance: see `answers.Summary`."""
        ...

    async def explain(
        self, principal: Caller, account_id: str, model: str | None
    ) -> dict[str, Any]:
        """Why an account requires what it does, under one model or all: `answers.Explained`."""
        ...

    def events(self, principal: Caller, after: int | None) -> AsyncIterator[dict[str, Any]]:
        """Events after a `state_seq`, then new ones as they come; None: only new ones.

        An event has the members of `answers.Event`. Those of one sequence number come in the same
        order every time, from its first: streams resume by counting them. The iterator waits for
        more and ends when the server stops; it keeps a place in what the book keeps, no buffer of
        its own, since a slow client lets it wait. Problems are raised by the call itself, before
        the first event.
        """
        ...

    async def snapshot(self, principal: Caller) -> dict[str, Any]:
        """Save the state now: see `answers.Snapshot`."""
        ...

    async def accounts(self, principal: Caller, prefix: str, limit: int) -> list[str]:
        """The first `limit` ids, in order of their bytes, that start with `prefix`."""
        ...
