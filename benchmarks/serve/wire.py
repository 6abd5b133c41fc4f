"""Requests as bytes, made before the clock starts: another account and other legs in each."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from serve.book import CLIENTS, INSTRUMENTS, Book, account_ids, instrument_ids, popular

JSON, ARROW = "application/json", "application/vnd.apache.arrow.stream"
LEGS = 5
Lanes = Iterable[tuple[int, bytes]]


def write(path: Path, requests: Lanes) -> Path:
    """The file that `load` reads: lane, length, request."""
    with path.open("wb") as stream:
        for lane, request in requests:
            stream.write(struct.pack("=II", lane, len(request)))
            stream.write(request)
    return path


def request(
    method: str, path: str, key: str, body: bytes = b"", media: str = "", **headers: object
) -> bytes:
    """One HTTP request; underscores in names of headers stand for hyphens."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {key}"]
    if body:
        lines += [f"Content-Type: {media or JSON}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def json_body(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def arrow_body(table: pl.DataFrame) -> bytes:
    stream = io.BytesIO()
    table.write_ipc_stream(stream)
    return stream.getvalue()


def _quantities(count: int, rng: np.random.Generator) -> Any:
    return rng.integers(1, 20, count) * rng.choice([-1.0, 1.0], count)


def legs(count: int, rng: np.random.Generator) -> tuple[list[str], Any]:
    """Instruments and quantities of so many what-ifs, five of each, one after the other."""
    # Five draws that lie apart: none twice in a what-if.
    apart = INSTRUMENTS // LEGS * np.tile(np.arange(LEGS), count)
    code = popular(LEGS * count, rng) // LEGS + apart
    return instrument_ids()[code].tolist(), _quantities(LEGS * count, rng)


def whatifs(book: Book, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Bodies of single what-ifs."""
    rng = np.random.default_rng(seed)
    accounts = account_ids(rng.integers(0, book.size.accounts, count))
    names, sizes = legs(count, rng)
    each = sizes.tolist()
    for number, account in enumerate(accounts):
        part = slice(LEGS * number, LEGS * (number + 1))
        trades = dict(zip(names[part], each[part], strict=True))
        yield {"account_id": account, "positions": trades}


def leg_table(book: Book, count: int, seed: int) -> pl.DataFrame:
    """A batch of what-ifs of five different instruments each."""
    rng = np.random.default_rng(seed)
    whatif = np.repeat(np.arange(count), LEGS)
    accounts = np.array(account_ids(rng.integers(0, book.size.accounts, count)))
    names, sizes = legs(count, rng)
    return pl.DataFrame(
        {
            "whatif_id": [f"w{n}" for n in whatif],
            "account_id": accounts[whatif],
            "instrument_id": names,
            "quantity": sizes,
        }
    )


def batches(book: Book, count: int, each: int, seed: int) -> Lanes:
    """Batches of what-ifs in Arrow, answered in Arrow."""
    for number in range(count):
        body = arrow_body(leg_table(book, each, seed + number))
        key = book.trader(number % CLIENTS)
        yield 0, request("POST", "/v1/whatif/batch", key, body, ARROW, Accept=ARROW)


def orders(book: Book, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Small orders, half of them beside one or two open ones."""
    rng = np.random.default_rng(seed)
    accounts = account_ids(rng.integers(0, book.size.accounts, count))
    names = instrument_ids()[popular(3 * count, rng)].tolist()
    sizes, opened = _quantities(3 * count, rng).tolist(), rng.integers(-1, 3, count).tolist()
    for number, account in enumerate(accounts):
        own = range(3 * number, 3 * number + 3)
        first, *others = ({"instrument_id": names[n], "quantity": sizes[n]} for n in own)
        yield {"account_id": account, **first, "open_orders": others[: max(0, opened[number])]}


def posts(book: Book, path: str, bodies: Iterable[dict[str, Any]]) -> Lanes:
    """JSON bodies to one path, by all clients in turn."""
    for number, body in enumerate(bodies):
        yield 0, request("POST", path, book.trader(number % CLIENTS), json_body(body))


def accounts(book: Book, count: int, seed: int) -> Lanes:
    names = account_ids(np.random.default_rng(seed).integers(0, book.size.accounts, count))
    for number, name in enumerate(names):
        yield 0, request("GET", f"/v1/accounts/{name}", book.trader(number % CLIENTS))


def fill_table(book: Book, count: int, tag: str, seed: int) -> pl.DataFrame:
    """Fills of random accounts, nine in ten in an instrument that was held at the start."""
    rng = np.random.default_rng(seed)
    account = rng.integers(0, book.size.accounts, count)
    old = book.held[account, rng.integers(0, book.size.positions, count)]
    code = np.where(rng.random(count) < 0.1, popular(count, rng), old)
    return pl.DataFrame(
        {
            "fill_id": [f"{tag}-{n}" for n in range(count)],
            "account_id": account_ids(account),
            "instrument_id": instrument_ids()[code],
            "quantity": rng.integers(1, 5, count) * rng.choice([-1.0, 1.0], count),
            "price": (book.price[code] * rng.uniform(0.99, 1.01, count)).round(4),
        }
    )


def fills(book: Book, numbers: dict[int, int], each: int, rows: int, tag: str) -> Lanes:
    """`each` requests of so many fills for every client in `numbers`, from its number on.

    The lanes are the clients in their order. A single fill is JSON, many are Arrow. `tag` makes
    fill ids and keys that no other run has.
    """
    for lane, (client, first) in enumerate(numbers.items()):
        table = fill_table(book, each * rows, f"{tag}-{client}", 1000 + client)
        for number, (body, media) in enumerate(fill_bodies(table, rows)):
            key = f"{tag}-{client}-{number}"
            headers = {"Client_Sequence": first + number, "Idempotency_Key": key}
            yield lane, request("POST", "/v1/fills", book.trader(client), body, media, **headers)


def fill_bodies(table: pl.DataFrame, rows: int) -> Iterator[tuple[bytes, str]]:
    if rows == 1:
        for row in table.iter_rows(named=True):
            yield json_body({"fills": [row]}), JSON
    else:
        for part in table.iter_slices(rows):
            yield arrow_body(part), ARROW
