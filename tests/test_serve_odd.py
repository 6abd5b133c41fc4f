"""Whatever is sent as fills and marks, the server goes on, and a restart finds the same book."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import live_case
import pytest
from running_case import Running, running
from serve_process import small_book
from tracker_case import Row, fill, mark

NUMBERS = [
    *(0.0, 1.0, -1.0, 3, 0.1, 5e-324, -1e-320, 123456789.123, 2**53 + 1),
    *(1e12, -1e20, 1e30, -1e30, 1e31, 1.7976931348623157e308),
]
IDS = [
    "A",
    "B",
    "é",
    "\x00",
    "a/b",
    " ",
    "x" * 256,
    "🙂",
    "\n",
    "A;B",
    "*",
    "%00",
    "null",
    "NaN",
]
# Times of the future are taken here, that the book has to bear them.
LIMITS = "[server.limits]\nmark_ahead_seconds = 1e308\n"
TIMES = [
    *(0, -1, 1e308, -1e308, 1e12, 253402300800, -62135596801, 1e18),
    *("2024-03-01", "2024-03-01T12:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01", "nonsense", ""),
    *("1969-12-31T23:59:59.999999999+14:00", "2262-04-12T00:00:00", "24:00", "2024-02-30"),
]
NAMES = ["FUTX", "CALLX", "SPOTX", "PERPY", "PUTY", "NOPRICE", "FUTE", "GBPX", "LONE", "NONE"]
FIELDS = ["price", "implied_vol", "forward", "last"]


def change(draw: random.Random, number: int) -> tuple[str, list[Row]]:
    """A request whose rows are good, bad and extreme."""
    rows = range(draw.choice([1, 3, 9]))
    if draw.random() < 0.5:
        ids = [*IDS, *(f"{number} {row}" for row in rows)]
        return "fills", [
            fill(
                draw.choice(ids),
                draw.choice(ids),
                draw.choice(NAMES),
                draw.choice(NUMBERS),
                draw.choice(NUMBERS),
                netting_set=draw.choice([*IDS, *[None] * 9]),
                fee=draw.choice(NUMBERS),
            )
            for row in rows
        ]
    return "marks", [
        mark(
            *(draw.choice(NAMES) if own else None, draw.choice(FIELDS)),
            *(draw.choice(NUMBERS), draw.choice(TIMES)),
            None if own else draw.choice(["X", "Y", "none"]),
        )
        for own in (draw.random() < 0.7 for _ in rows)
    ]


@pytest.mark.parametrize("seed", range(2))
def test_a_restart_finds_what_was_left_whatever_came(seed: int, tmp_path: Path) -> None:
    """By the log alone, which is measured once at its end, and by a snapshot."""
    config, draw = small_book(tmp_path, LIMITS), random.Random(seed)
    with running(config) as server, server.client() as client:
        taken = 0
        for number in range(300):
            kind, rows = change(draw, number)
            headers = {"Client-Sequence": str(taken + 1), "Idempotency-Key": str(number)}
            answer = client.post(f"/v1/{kind}", json={kind: rows}, headers=headers)
            assert answer.status_code in (200, 422), answer.text
            taken += answer.status_code == 200
            if number % 60 == 59:
                asked(server, client)
        assert server.house.log.last() == taken > 100
        left = server.house.answering
        server.house._unsaved = 0  # as if it had been killed
    for _ in range(2):
        with running(config) as server, server.client() as client:
            found = server.house.answering
            live_case.same(found.book, left.book)
            assert found.board.table().equals(left.board.table())
            asked(server, client)
    live_case.same_as_run(left.book, tmp_path / "export")


def asked(server: Running, client: httpx.Client) -> None:
    """Every account can be looked at, and asked about."""
    for account in server.house.answering.book.accounts_like("", 1_000):
        found = client.get(f"/v1/accounts/{quote(account, safe='')}")
        assert found.status_code == 200, (account, found.text)
        trade: dict[str, Any] = {"account_id": account, "positions": {"FUTX": 1.0}}
        assert client.post("/v1/whatif", json=trade).status_code in (200, 422)
        order = {"account_id": account, "instrument_id": "FUTX", "quantity": 1.0}
        assert client.post("/v1/orders/check", json=order).status_code == 200
    assert client.get("/v1/summary").status_code == 200
    assert server.house.threads.writer is not None and not server.house.threads.writer.broken
