"""The calls that the server knows, as steps: what is sent, and what the answer means."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import polars as pl

from gpu_margin.client.problems import ProblemError, Unanswered
from gpu_margin.client.steps import Patience, Send, Sleep, Steps, answer

Row = Mapping[str, Any]
Answer = dict[str, Any]
_JSON, _ARROW = "application/json", "application/vnd.apache.arrow.stream"
_GAP = 409
_LOOK_EVERY = 0.25


class Calls:
    """The calls of one client; `deadline` is how many seconds each may take with all its tries.

    Fills and marks are numbered: only one of them may be under way at a time.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._next = 1  # the server says so (409) where it is another

    def account(self, account_id: str) -> Steps[Answer]:
        """GET accounts/{id}."""
        return self._asked(Send("GET", f"/v1/accounts/{quote(account_id, safe='')}"))

    def explain(self, account_id: str, model: str | None) -> Steps[Answer]:
        """GET accounts/{id}/explain."""
        params = {} if model is None else {"model": model}
        path = f"/v1/accounts/{quote(account_id, safe='')}/explain"
        return self._asked(Send("GET", path, params=params))

    def summary(self) -> Steps[Answer]:
        """GET summary."""
        return self._asked(Send("GET", "/v1/summary"))

    def whatif(self, whatif: Row) -> Steps[Answer]:
        """POST whatif."""
        return self._asked(_posted("/v1/whatif", whatif))

    def whatif_batch(self, whatifs: Sequence[Row]) -> Steps[Answer]:
        """POST whatif/batch in JSON."""
        return self._asked(_posted("/v1/whatif/batch", {"whatifs": list(whatifs)}))

    def whatif_table(self, legs: pl.DataFrame) -> Steps[pl.DataFrame]:
        """POST whatif/batch in Arrow; `state_seq` of the answers is a column."""
        content, media = _table_body(legs)
        headers = {"Content-Type": media, "Accept": _ARROW}
        send = Send("POST", "/v1/whatif/batch", headers, content)
        response = yield from answer(send, Patience(self.deadline))
        table = pl.read_ipc_stream(io.BytesIO(response.content))
        sequence = response.headers.get("X-State-Seq")
        if sequence is None or "state_seq" in table.columns:
            return table
        return table.with_columns(pl.lit(int(sequence), pl.Int64).alias("state_seq"))

    def check_order(self, order: Row) -> Steps[Answer]:
        """POST orders/check: an accepted order counts for the pace of orders, so it goes once."""
        return self._asked(_posted("/v1/orders/check", order, again=False))

    def change(
        self, kind: str, rows: Sequence[Row] | pl.DataFrame, key: str | None
    ) -> Steps[Answer]:
        """POST fills or marks: with the number that the server expects, and with one key."""
        patience, key = Patience(self.deadline), key or str(uuid4())
        content, media = _rows_body(kind, rows)
        while True:
            number = self._next
            headers = {
                "Content-Type": media,
                "Client-Sequence": str(number),
                "Idempotency-Key": key,
            }
            send = Send("POST", f"/v1/{kind}", headers, content, key=key)
            try:
                response = yield from answer(send, patience)
            except ProblemError as problem:
                pause = self._numbered_again(problem, number, patience)
                if pause is None:
                    raise
                yield pause
            else:
                self._next = number + 1
                return _read(response)

    def _numbered_again(
        self, problem: ProblemError, number: int, patience: Patience
    ) -> Sleep | None:
        """After a gap: no pause for the first number told, then some, as others use them up."""
        expected = problem.extra.get("expected")
        if problem.status != _GAP or not isinstance(expected, int) or expected == number:
            return None
        first = self._next == 1
        self._next = expected
        return Sleep(0.0) if first else patience.pause()

    def snapshot(self) -> Steps[Answer]:
        """POST admin/snapshot."""
        return self._asked(Send("POST", "/v1/admin/snapshot"))

    def ready(self) -> Steps[bool]:
        """GET /ready: False also where nobody answers."""
        reply = yield Send("GET", "/ready")
        if isinstance(reply, httpx.Response) and reply.status_code not in (200, 503):
            raise ProblemError(reply)
        return isinstance(reply, httpx.Response) and reply.is_success

    def until_ready(self, timeout: float) -> Steps[None]:
        """Ask /ready until it says so; `Unanswered` where it does not in so many seconds."""
        patience = Patience(timeout)
        while not (yield from self.ready()):
            if patience.left < _LOOK_EVERY:
                raise Unanswered(f"the server was not ready within {timeout:g} s")
            yield Sleep(_LOOK_EVERY)

    def _asked(self, send: Send) -> Steps[Answer]:
        response = yield from answer(send, Patience(self.deadline))
        return _read(response)


def _read(response: httpx.Response) -> Answer:
    found: Answer = response.json()
    return found


def whatif_of(account_id: str, positions: Mapping[str, float], **options: Any) -> Answer:
    """The body of a what-if, without those options that are None."""
    given = {name: value for name, value in options.items() if value is not None}
    return {"account_id": account_id, "positions": dict(positions), **given}


def order_of(
    account_id: str, instrument_id: str, quantity: float, open_orders: Sequence[Row], **options: Any
) -> Answer:
    """The body of an order check, without those options that are None."""
    given = {name: value for name, value in options.items() if value is not None}
    order = {"account_id": account_id, "instrument_id": instrument_id, "quantity": quantity}
    return {**order, "open_orders": list(open_orders), **given}


def _posted(path: str, body: Row, *, again: bool = True) -> Send:
    return Send("POST", path, {"Content-Type": _JSON}, _json_body(body), again=again)


def _rows_body(kind: str, rows: Sequence[Row] | pl.DataFrame) -> tuple[bytes, str]:
    if isinstance(rows, pl.DataFrame):
        return _table_body(rows)
    return _json_body({kind: list(rows)}), _JSON


def _table_body(table: pl.DataFrame) -> tuple[bytes, str]:
    stream = io.BytesIO()
    table.write_ipc_stream(stream)
    return stream.getvalue(), _ARROW


def _json_body(body: Row) -> bytes:
    """`ValueError` for a number that is not finite, `TypeError` for what is no JSON."""
    return json.dumps(body, allow_nan=False, default=_plain).encode()


def _plain(value: Any) -> Any:
    """Times as ISO text, numbers of numpy as numbers."""
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r} cannot be sent")
