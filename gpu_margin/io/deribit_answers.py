"""Which answers of Deribit's API v2 a JSON document holds, and what names of instruments say.

An answer may stand in its JSON-RPC envelope or without it, alone or in a list, or be the data of a
subscription. Known are public/get_instruments, get_book_summary_by_currency, ticker,
get_index_price; private/get_positions, get_account_summary, get_account_summaries,
get_subaccounts, get_subaccounts_details and pme/simulate. Source: the venue's API reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import polars as pl

from gpu_margin.failures import Failure, failure_table
from gpu_margin.io.crypto_json import Document, shown

# Parts of answers. An item may be both an instrument and a quote.
INSTRUMENT, QUOTE, INDEX = "instrument", "quote", "index"
POSITION, SUMMARY, SIMULATION, PARAMS = "position", "summary", "simulation", "params"
FEEDS = (INSTRUMENT, QUOTE, INDEX, SIMULATION)
HOLDINGS = (POSITION, SUMMARY, SIMULATION)

_ENVELOPE = ("jsonrpc", "usOut", "usIn", "testnet")
_OF_INSTRUMENT = ("tick_size", "settlement_period", "contract_size", "option_type")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_NAME = re.compile(
    r"(?P<base>[A-Z0-9]+)(?:_(?P<quote>[A-Z0-9]+))?-(?:PERPETUAL|"
    r"(?P<day>\d{1,2})(?P<month>[A-Z]{3})(?P<year>\d{2})"
    r"(?:-(?P<strike>\d+(?:d\d+)?)-(?P<right>[CP]))?)"
)
# Contracts expire at this hour, UTC.
_EXPIRY_HOUR = 8


@dataclass(frozen=True)
class Item:
    """One object of an answer: where it stands, and what is known of it from around it.

    `account` is whose it is, where the answer says so; `sent` when it was sent, in milliseconds
    since 1970, where the envelope says so. `folder` and `stem` are of its file.
    """

    kind: str
    source: str
    pointer: str
    values: Mapping[str, Any]
    account: str | None = None
    sent: float | None = None

    @property
    def folder(self) -> str:
        """The folder of the file, "" for that of the answers."""
        parent = str(PurePosixPath(self.source).parent)
        return "" if parent == "." else parent

    @property
    def stem(self) -> str:
        """The name of the file without its ending."""
        return PurePosixPath(self.source).stem


@dataclass(frozen=True)
class Name:
    """What an instrument is; `kind` is a name of `gpu_margin.crypto_book.KINDS`.

    `expiry` in seconds since 1970, None for a perpetual.
    """

    kind: str
    base: str
    settlement: str
    inverse: bool
    expiry: float | None
    strike: float | None
    right: str | None


def items(documents: Iterable[Document]) -> tuple[list[Item], pl.DataFrame]:
    """All known objects of the documents, in their order, and failures of what is not known."""
    found, lost = list[Item](), list[Failure]()
    for document in documents:
        if document.value is not None:
            _unwrapped(document.source, "", document.value, None, found, lost)
    return found, failure_table(lost)


def _unwrapped(
    source: str,
    pointer: str,
    value: Any,
    sent: float | None,
    found: list[Item],
    lost: list[Failure],
) -> None:
    if isinstance(value, list):
        for place, one in enumerate(value):
            _unwrapped(source, f"{pointer}/{place}", one, sent, found, lost)
        return
    if not isinstance(value, Mapping):
        lost.append(Failure("not an object", source, None, pointer, shown(value)))
        return
    if "error" in value and "result" not in value and any(key in value for key in _ENVELOPE):
        reason = "the answer is an error of the venue's: ask again"
        lost.append(Failure(reason, source, None, f"{pointer}/error", shown(value["error"])))
        return
    if "result" in value and "instrument_name" not in value:
        at = number(value.get("usOut"))
        sent = at / 1e3 if isinstance(at, float) else sent
        _unwrapped(source, f"{pointer}/result", value["result"], sent, found, lost)
        return
    params = value.get("params")
    if value.get("method") == "subscription" and isinstance(params, Mapping) and "data" in params:
        _unwrapped(source, f"{pointer}/params/data", params["data"], sent, found, lost)
        return
    told = _items(source, pointer, value, sent, lost)
    if not told:
        reason = "no answer of a known shape: take it out of the file"
        lost.append(Failure(reason, source, None, pointer, shown(value)))
    found.extend(told)


def _items(
    source: str, pointer: str, value: Mapping[str, Any], sent: float | None, lost: list[Failure]
) -> list[Item]:
    """The object as it is, or those inside it."""
    if isinstance(value.get("model_params"), Mapping) or isinstance(value.get("general"), Mapping):
        kind = SIMULATION if isinstance(value.get("portfolio"), Mapping) else PARAMS
        return [Item(kind, source, pointer, value, None, sent)]
    if isinstance(value.get("summaries"), list):
        return _inside(SUMMARY, source, f"{pointer}/summaries", value["summaries"], value, lost)
    if isinstance(value.get("positions"), list) and ("uid" in value or "id" in value):
        return _inside(POSITION, source, f"{pointer}/positions", value["positions"], value, lost)
    if isinstance(value.get("portfolio"), Mapping) and "id" in value:
        inside = {f"/{key}": one for key, one in value["portfolio"].items()}
        return _inside(SUMMARY, source, f"{pointer}/portfolio", inside, value, lost)
    return [Item(kind, source, pointer, value, account_of(value), sent) for kind in _kinds(value)]


def _inside(
    kind: str, source: str, pointer: str, listed: Any, owner: Mapping[str, Any], lost: list[Failure]
) -> list[Item]:
    """Objects of a list, or by "/key" of an object, that an account owns; PARAMS where none is."""
    if isinstance(listed, list):
        listed = {f"/{place}": one for place, one in enumerate(listed)}
    # An empty list is an answer as well.
    found = [Item(PARAMS, source, pointer, {})]
    for key, one in listed.items():
        if not isinstance(one, Mapping):
            lost.append(Failure("not an object", source, None, f"{pointer}{key}", shown(one)))
            continue
        # Whether currencies are joined may be said of the account as a whole.
        shared = {name: owner[name] for name in ("margin_model",) if name in owner}
        values = {**shared, **one}
        found.append(Item(kind, source, f"{pointer}{key}", values, account_of(owner)))
    return found


def _kinds(value: Mapping[str, Any]) -> list[str]:
    if "instrument_name" not in value:
        if "currency" in value and ("balance" in value or "equity" in value):
            return [SUMMARY]
        if "index_price" in value or ("index_name" in value and "price" in value):
            return [INDEX]
        return []
    if "size" in value and ("direction" in value or "average_price" in value):
        return [POSITION]
    dated = "expiration_timestamp" in value
    told = [INSTRUMENT] if dated or any(key in value for key in _OF_INSTRUMENT) else []
    return [*told, QUOTE] if "mark_price" in value or "mark_iv" in value else told


def account_of(value: Mapping[str, Any]) -> str | None:
    """Whose an answer is by its id, else its user's name; None where it says neither."""
    for key in ("id", "uid", "username", "system_name"):
        name = value.get(key)
        if isinstance(name, str | int) and not isinstance(name, bool) and str(name):
            return str(name)
    return None


def number(value: Any) -> Any:
    """A float where the value is a number, also as text; else the value as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    try:
        return float(value)
    except (ValueError, OverflowError):
        return str(value)


def scaled(value: Any, factor: float | None) -> Any:
    """A number times the factor, None without one; what is no number as it is."""
    value = number(value)
    if not isinstance(value, float):
        return value
    return None if factor is None else value * factor


def parsed(name: Any) -> Name | None:
    """What a name such as BTC-PERPETUAL or SOL_USDC-26JAN24-92d5-C says; None for any other.

    A name with two currencies settles in the second, one with a single currency in that.
    """
    told = _NAME.fullmatch(name) if isinstance(name, str) else None
    if told is None:
        return None
    base, quote, strike, right = told.group("base", "quote", "strike", "right")
    expiry = _expiry(*told.group("day", "month", "year")) if told["day"] else None
    if told["day"] and expiry is None:
        return None
    kind = "perpetual" if expiry is None else "option" if strike else "future"
    return Name(
        kind=kind,
        base=base,
        settlement=quote or base,
        inverse=quote is None,
        expiry=expiry,
        strike=float(strike.replace("d", ".")) if strike else None,
        right={"C": "call", "P": "put"}[right] if right else None,
    )


def _expiry(day: str, month: str, year: str) -> float | None:
    if month not in _MONTHS:
        return None
    try:
        moment = datetime(
            2000 + int(year), _MONTHS.index(month) + 1, int(day), _EXPIRY_HOUR, tzinfo=UTC
        )
    except ValueError:
        return None
    return moment.timestamp()
