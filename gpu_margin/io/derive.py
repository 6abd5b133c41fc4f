"""Derive's own answers as records: public tickers and signed feeds, private subaccounts.

Known are, with or without their JSON-RPC envelope, one or a list of them, in one file or a folder:

- public/get_ticker, public/get_tickers (short keys) and the ticker_slim channel,
- public/get_latest_signed_feeds, which alone has confidences, rates and smiles,
- private/get_subaccount, private/get_all_portfolios.

Every answer has its own time: the newest counts for a price that several say. The market's time is
that of the newest. A perpetual's `mark_value` is what its position is worth, with the funding due:
unrealized_pnl - net_settlements + pending_funding. Source: the venue's API reference, v2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from gpu_margin.failures import Failure, failure_table
from gpu_margin.io.crypto_json import Document, Record, escaped, objects, shown
from gpu_margin.io.crypto_market import FeedRecords
from gpu_margin.io.crypto_rules import STABLE
from gpu_margin.io.crypto_tables import CASH, COLLATERAL, UNREALISED
from gpu_margin.io.derive_tickers import Quotes, is_signed, is_ticker

Said = Mapping[str, Any]

# Currencies of subaccounts that name no market.
_NO_MARKET = ("all", STABLE)


@dataclass(frozen=True)
class HoldingRecords:
    """Positions (account_id, instrument_id, quantity, market) and balances (kind, amount, asset).

    A subaccount is an account of its own, with one netting set.
    """

    positions: tuple[Record, ...]
    balances: tuple[Record, ...]
    failures: pl.DataFrame


def is_feeds(value: Any) -> bool:
    """Whether an answer has tickers or signed feeds."""
    return any(_is_feed(one) for _, one in _answers("", value))


def is_subaccounts(value: Any) -> bool:
    """Whether an answer has a subaccount."""
    return any(_is_subaccount(one) for _, one in _answers("", value))


def is_known(value: Any) -> bool:
    """Whether an answer has anything that is read here."""
    return is_feeds(value) or is_subaccounts(value)


def _is_feed(value: Said) -> bool:
    return "tickers" in value or is_ticker(value) or is_signed(value)


def _is_subaccount(value: Said) -> bool:
    return "subaccount_id" in value and ("positions" in value or "collaterals" in value)


def _answers(pointer: str, value: Any) -> list[tuple[str, Said]]:
    """Pointer and object of every answer, out of its envelope."""
    if isinstance(value, list):
        items = enumerate(value)
        return [found for number, one in items for found in _answers(f"{pointer}/{number}", one)]
    if not isinstance(value, Mapping):
        return []
    for envelope in ("result", "params", "data"):
        inside = value.get(envelope)
        if isinstance(inside, (list, Mapping)):
            return _answers(f"{pointer}/{envelope}", _of_channel(value.get("channel"), inside))
    return [(pointer, value)]


def _of_channel(channel: Any, said: Any) -> Any:
    """A message of a ticker's channel with the instrument that the channel is of."""
    parts = channel.split(".") if isinstance(channel, str) else []
    named = len(parts) > 1 and parts[0].startswith("ticker") and isinstance(said, Mapping)
    return {"instrument_name": parts[1], **said} if named else said


# ---------------------------------------------------------------- feeds


def feed_records(documents: list[Document], subaccounts: list[Document]) -> FeedRecords:
    """What the answers say of the market.

    Coins without a ticker have the price that a subaccount among `subaccounts` says, and one that
    is an underlying else has its spot.
    """
    quotes, lost = Quotes(), list[Failure]()
    for document in documents:
        for pointer, answer in _answers("", document.value):
            _read_feed(quotes, document.source, pointer, answer, lost)
    for document in subaccounts:
        for pointer, answer in _answers("", document.value):
            listed = answer.get("collaterals") if _is_subaccount(answer) else None
            for at, coin in objects(document.source, f"{pointer}/collaterals", listed, []):
                quotes.add_coin(document.source, at, coin)
    return quotes.records(failure_table(lost))


def _read_feed(
    quotes: Quotes, source: str, pointer: str, answer: Said, lost: list[Failure]
) -> None:
    tickers = answer.get("tickers")
    if isinstance(tickers, Mapping):
        for name, ticker in tickers.items():
            at = f"{pointer}/tickers/{escaped(name)}"
            if isinstance(ticker, Mapping):
                quotes.add_ticker(source, at, {"instrument_name": name, **ticker})
            else:
                lost.append(Failure("not an object", source, None, at, shown(ticker)))
    elif tickers is not None:
        for at, ticker in objects(source, f"{pointer}/tickers", tickers, lost):
            quotes.add_ticker(source, at, ticker)
    elif is_ticker(answer):
        quotes.add_ticker(source, pointer, answer)
    elif is_signed(answer):
        quotes.add_signed(source, pointer, answer)


# ---------------------------------------------------------------- subaccounts


def holding_records(documents: list[Document]) -> HoldingRecords:
    """Positions and balances of all subaccounts."""
    positions, balances = list[Record](), list[Record]()
    lost, seen = list[Failure](), set[tuple[Any, str]]()
    for document in documents:
        for pointer, answer in _answers("", document.value):
            if not _is_subaccount(answer):
                continue
            owner = _owner(answer)
            for part in ("positions", "collaterals"):
                if part in answer and (owner["account_id"], part) in seen:
                    lost.append(_again(document.source, f"{pointer}/{part}", owner["account_id"]))
                elif part in answer:
                    seen.add((owner["account_id"], part))
                    listed = list(
                        _listed(document.source, f"{pointer}/{part}", answer[part], owner)
                    )
                    rows = balances if part == "collaterals" else positions
                    rows += [one for one in listed if one.fault is not None]
                    said = [one for one in listed if one.fault is None]
                    if part == "positions":
                        positions += [_position(one, owner) for one in said]
                        balances += [_unrealised(one, owner) for one in said if _is_perpetual(one)]
                    else:
                        balances += [row for one in said for row in _collateral(one, owner)]
            # One who has nothing at all is there all the same.
            balances.append(_nothing(document.source, pointer, owner))
    return HoldingRecords(tuple(positions), tuple(balances), failure_table(lost))


def _listed(source: str, pointer: str, value: Any, owner: Said) -> Iterator[Record]:
    """The objects of a list as they are; what is none has a fault, and its owner."""
    if not isinstance(value, list):
        yield _faulty(source, pointer, "not a list", value, owner)
        return
    for number, one in enumerate(value):
        if isinstance(one, Mapping):
            yield Record(source, f"{pointer}/{number}", one)
        else:
            yield _faulty(source, f"{pointer}/{number}", "not an object", one, owner)


def _faulty(source: str, pointer: str, reason: str, value: Any, owner: Said) -> Record:
    return Record(source, pointer, owner, fault=Failure(reason, source, value=shown(value)))


def _again(source: str, pointer: str, account: str) -> Failure:
    reason = "duplicate subaccount: only the first answer counts; keep one"
    return Failure(reason, source, None, pointer, account)


def _owner(answer: Said) -> dict[str, Any]:
    """The account, and the market of a portfolio margin subaccount where it is said."""
    currency, margin = answer.get("currency"), answer.get("margin_type")
    if isinstance(currency, list) and len(currency) == 1:
        currency = currency[0]
    portfolio = isinstance(margin, str) and margin.upper().startswith("PM")
    named = isinstance(currency, str) and currency not in _NO_MARKET
    account = answer["subaccount_id"]
    return {
        "account_id": str(account) if isinstance(account, (int, str)) else None,
        "market": currency if portfolio and named else None,
    }


def _position(said: Record, owner: Said) -> Record:
    one = said.values
    values = {"instrument_id": one.get("instrument_name"), "quantity": one.get("amount")}
    names = {"instrument_id": "instrument_name", "quantity": "amount"}
    return Record(said.source, said.pointer, {**owner, **values}, names)


def _is_perpetual(said: Record) -> bool:
    kind, name = said.values.get("instrument_type"), said.values.get("instrument_name")
    return kind == "perp" or str(name).endswith("-PERP")


def _unrealised(said: Record, owner: Said) -> Record:
    """What a perpetual is worth, funding included."""
    values = {**owner, "kind": UNREALISED, "amount": _worth(said.values)}
    return Record(said.source, said.pointer, values, {"amount": "mark_value"})


def _worth(position: Said) -> Any:
    """The mark value; where it is left out, what it is made of."""
    if position.get("mark_value") is not None:
        return position["mark_value"]
    try:
        gained, settled, funding = (
            float(position[key]) for key in ("unrealized_pnl", "net_settlements", "pending_funding")
        )
    except (KeyError, TypeError, ValueError):
        return None
    return gained - settled + funding


def _collateral(said: Record, owner: Said) -> Iterator[Record]:
    """Cash in the stable coin, and the interest due on it; another coin as collateral."""
    one = said.values
    cash = one.get("asset_name") == STABLE
    values = {**owner, "kind": CASH if cash else COLLATERAL, "asset": one.get("asset_name")}
    names = {"asset": "asset_name"}
    yield Record(said.source, said.pointer, {**values, "amount": one.get("amount")}, names)
    if cash and one.get("pending_interest") is not None:
        due = {**values, "amount": one["pending_interest"]}
        yield Record(said.source, said.pointer, due, {**names, "amount": "pending_interest"})


def _nothing(source: str, pointer: str, owner: Said) -> Record:
    return Record(source, pointer, {**owner, "kind": CASH, "amount": 0.0})
