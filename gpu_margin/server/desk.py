"""The service behind the slow routes: see `service.Service`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import msgspec

from gpu_margin.failures import ConfigError, GpuMarginError, InputError
from gpu_margin.server.access import Access
from gpu_margin.server.answers import explained
from gpu_margin.server.hot_routes import foreign_account, loading
from gpu_margin.server.house import House
from gpu_margin.server.metrics import Metrics
from gpu_margin.server.problems import Problem, busy
from gpu_margin.server.refusals import unknown_account
from gpu_margin.server.service import Caller


class Desk:
    """Asks the house, for callers that may."""

    def __init__(self, house: House, access: Access) -> None:
        self._house, self._access = house, access

    @property
    def metrics(self) -> Metrics:
        """What is measured."""
        return self._house.metrics

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether questions and changes are answered, and why not."""
        house = self._house
        if house.error is not None:
            return False, {"stage": "failed", "reason": "see the server's log"}
        if house.threads.reader is None or house.threads.writer is None:
            return False, house.progress
        if house.audit.failed or house.threads.writer.broken:
            return False, {"stage": "failed", "reason": "see the server's log"}
        return True, {"stage": "ready"}

    async def summary(self, principal: Caller) -> dict[str, Any]:
        """The book and the server at a glance; a tenant is not told of the whole book."""
        if principal.tenant is not None:
            raise Problem(
                403,
                "forbidden",
                "the summary is about the whole book, this key is of one tenant",
                way_out="use a key without a tenant",
            )
        house = self._house
        found = await self._call(lambda: house.answering.book.summary())
        reader, writer = house.threads.reader, house.threads.writer
        return {
            **found,
            "started": datetime.fromtimestamp(house.started, UTC).isoformat(),
            "queues": {
                "questions": reader.waiting if reader else 0,
                "changes": writer.waiting if writer else 0,
            },
            "stale_marks": house.answering.any_stale(),
            "mark_age_seconds": house.answering.mark_age,
            "version": version("gpu-margin"),
            "snapshot": house.saved,
            "faults": house.faults,
        }

    async def explain(
        self, principal: Caller, account_id: str, model: str | None
    ) -> dict[str, Any]:
        """Why an account requires what it does, under one model or all."""
        self._visible(principal, account_id)

        def work() -> dict[str, Any]:
            book = self._house.answering.book
            names = book.models if model is None else (model,)
            try:
                parts = [book.explain(account_id, name) for name in names]
            except GpuMarginError:
                raise
            except Exception as error:
                raise self._house.answering.lost(error) from error
            whole = [part for part in parts if part is not None]
            if not whole:
                raise unknown_account(account_id)
            found: dict[str, Any] = msgspec.to_builtins(explained(account_id, book.sequence, whole))
            return found

        try:
            answer: dict[str, Any] = await self._call(work)
        except ConfigError as error:
            raise Problem(
                404, "unknown-model", str(error), field="model", way_out="name one of these models"
            ) from error
        except InputError as error:
            raise Problem(
                422, "no-position", str(error), field="account_id", way_out="mend its input rows"
            ) from error
        return answer

    def events(self, principal: Caller, after: int | None) -> AsyncIterator[dict[str, Any]]:
        """Events after a state, then new ones as they come."""
        if self._house.threads.reader is None:
            raise loading()
        book = self._house.answering.book
        return self._events(principal, book.sequence if after is None else after)

    async def _events(self, principal: Caller, after: int) -> AsyncIterator[dict[str, Any]]:
        house = self._house
        changed = house.listen()
        try:
            while not house.leaving.is_set():
                changed.clear()
                for event in house.answering.book.events_after(after):
                    after = event.sequence
                    if self._sees(principal, event.account_id):
                        yield asdict(event)
                await changed.wait()
        finally:
            house.unlisten(changed)

    async def snapshot(self, principal: Caller) -> dict[str, Any]:
        """Save the state now."""
        house = self._house
        if house.threads.writer is None:
            raise loading()
        write: Callable[[], dict[str, Any]] = await asyncio.wrap_future(
            house.threads.writer.call(house.begin_save)
        )
        try:
            saved = await asyncio.to_thread(write)
        except OSError as error:
            raise busy(f"the snapshot could not be written: {error.strerror}", 30.0) from error
        house.audit.note("admin", principal.name, act="snapshot", state_seq=saved["state_seq"])
        return {"state_seq": saved["state_seq"], "path": saved["path"]}

    async def accounts(self, principal: Caller, prefix: str, limit: int) -> list[str]:
        """The first ids that start with a prefix."""
        if principal.tenant is None:
            found: list[str] = await self._call(
                lambda: self._house.answering.book.accounts_like(prefix, limit)
            )
            return found
        every = await self._call(lambda: self._house.answering.book.accounts_like(prefix, 1 << 62))
        return [one for one in every if self._sees(principal, one)][:limit]

    async def _call(self, work: Callable[[], Any]) -> Any:
        if self._house.threads.reader is None:
            raise loading()
        return await self._house.threads.reader.ask("call", work)

    def _sees(self, principal: Any, account_id: str) -> bool:
        return principal.tenant is None or self._access.may_see(principal, account_id)

    def _visible(self, principal: Caller, account_id: str) -> None:
        if not self._sees(principal, account_id):
            raise foreign_account(account_id)
