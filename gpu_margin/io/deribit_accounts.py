"""Deribit's private answers as records of positions and balances.

- A netting set is what one settlement currency of an account margins; where the margin model is a
  cross one, all its currencies that have it are one set, CROSS.
- Perpetuals and futures are counted in their underlying: `size_currency`, else `size` (in the quote
  currency) over the position's own mark. Options are in their underlying as they are.
- Equity is balance + value of options + profit of the session: the last is unrealised here, in USD
  at the index. Balances in USDC are cash.
- An answer of pme/simulate has positions in the underlying, and of a cross account its coins; they
  count where no other answer has positions, or balances, of the account. Its charges for open
  orders, market maker protection and spot count.
- An account has the id, else the user's name, that its answers say; else the name of its folder,
  or of its file where one file was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from gpu_margin.failures import Failure, failure_table
from gpu_margin.io.crypto_json import Record, escaped, shown
from gpu_margin.io.crypto_tables import CASH, COLLATERAL, UNREALISED
from gpu_margin.io.deribit_answers import POSITION, SIMULATION, SUMMARY, Item, number, parsed

CROSS = "CROSS"
# Where the venue's charges are in an answer of pme/simulate, by our names.
_CHARGES = {
    "open_orders": "open_orders_margin",
    "mmp": "mmp_margin",
    "spot": "spot_margin",
}
_DIRECTIONS = {"buy": 1.0, "sell": -1.0, "zero": 0.0}


@dataclass(frozen=True)
class Known:
    """What a market says of instruments and coins: kind and settlement by name, prices in USD."""

    kinds: Mapping[str, str]
    settlements: Mapping[str, str]
    prices: Mapping[str, float]


@dataclass
class HoldingRecords:
    """Positions (account_id, instrument_id, quantity, netting_set, market) and balances."""

    positions: list[Record] = field(default_factory=list)
    balances: list[Record] = field(default_factory=list)
    lost: list[Failure] = field(default_factory=list)

    @property
    def failures(self) -> pl.DataFrame:
        """What found no place."""
        return failure_table(self.lost)


def holding_records(items: Sequence[Item], known: Known, alone: str) -> HoldingRecords:
    """All that the answers say; `alone` names the account of answers that lie in no sub-folder."""
    records = HoldingRecords()
    accounts = dict[str, list[Item]]()
    for item, account in _owned(items, alone, records):
        accounts.setdefault(account, []).append(item)
    for account, own in sorted(accounts.items()):
        _Account(account, own, known, records).read()
    return records


def _owned(items: Sequence[Item], alone: str, records: HoldingRecords) -> list[tuple[Item, str]]:
    """Items with their accounts: as they say, else whose the other answers beside them are."""
    folders = dict[str, list[Item]]()
    for item in items:
        if item.kind in (POSITION, SUMMARY, SIMULATION):
            folders.setdefault(item.folder, []).append(item)
    found = []
    for folder, inside in folders.items():
        names = sorted({item.account for item in inside if item.account is not None})
        other = names[0] if names else (folder.rpartition("/")[2] or alone)
        for item in inside:
            if item.account is None and len(names) > 1:
                reason = "whose is it? give the answers of every account a folder of their own"
                text = ", ".join(names)
                records.lost.append(Failure(reason, item.source, None, item.pointer, text))
            else:
                found.append((item, item.account or other))
    return found


class _Account:
    """Answers about one account."""

    def __init__(
        self, name: str, items: Sequence[Item], known: Known, records: HoldingRecords
    ) -> None:
        self._name, self._known, self._records = name, known, records
        self._of = {
            kind: [item for item in items if item.kind == kind]
            for kind in (POSITION, SUMMARY, SIMULATION)
        }
        # Currencies by their margin model; a currency of which nothing is said goes with the rest.
        self._joined = dict[str, bool]()
        for item in self._of[SUMMARY]:
            self._joined.setdefault(_currency(item), _cross(item.values))

    def read(self) -> None:
        """Write down all that is held."""
        seen = set[str]()
        for item in self._of[POSITION]:
            name = item.values.get("instrument_name")
            twice = self._again(seen, f"position in {name}")
            self._position(item, name, twice or self._quantity(item))
        for item in self._of[SUMMARY]:
            self._summary(item, self._again(seen, f"summary of {_currency(item)}"))
        for item in self._of[SIMULATION]:
            self._simulation(item)

    def _again(self, seen: set[str], what: str) -> str | None:
        """What to say in place of a number where the account has two of it."""
        if what in seen:
            return f"a second {what} of account {self._name}: keep one answer"
        seen.add(what)
        return None

    def _owner(self, currency: str | None, *, cross: bool | None = None) -> dict[str, Any]:
        """Account, netting set and market of what is in a currency."""
        if currency is None:
            return {"account_id": self._name, "netting_set": None, "market": None}
        joined = self._joined.get(currency, any(self._joined.values())) if cross is None else cross
        name = CROSS if joined else currency
        return {"account_id": self._name, "netting_set": name, "market": name}

    def _settled(self, instrument: Any) -> str | None:
        told = parsed(instrument)
        found = self._known.settlements.get(str(instrument))
        return found or (told.settlement if told else None)

    def _position(self, item: Item, name: Any, quantity: Any) -> None:
        owner = self._owner(self._settled(name))
        self._records.positions.append(
            Record(
                item.source,
                item.pointer,
                {**owner, "instrument_id": name, "quantity": quantity},
                {"instrument_id": "instrument_name", "quantity": _size_key(item.values)},
            )
        )

    def _quantity(self, item: Item) -> Any:
        """In the underlying, short below 0; else what is wrong, which fails as no number."""
        values, key = item.values, _size_key(item.values)
        size, direction = number(values.get(key)), values.get("direction")
        if not isinstance(size, float):
            return values.get(key)
        if direction is not None and str(direction) not in _DIRECTIONS:
            return f"unknown direction {shown(direction)}: it must be buy, sell or zero"
        sign = _DIRECTIONS.get(str(direction), 1.0)
        if sign > 0.0 > size and direction is not None:
            return f"direction buy with a size of {size}"
        signed = -abs(size) if sign < 0.0 else size
        kind = self._known.kinds.get(str(values.get("instrument_name")), values.get("kind"))
        if key == "size_currency" or kind == "option" or size == 0.0:
            return signed
        mark = number(values.get("mark_price"))
        if not isinstance(mark, float) or not mark > 0.0:
            return f"a size in the quote currency needs a mark_price above 0, not {shown(mark)}"
        return signed / mark

    def _summary(self, item: Item, twice: str | None) -> None:
        """The balance of a currency and its unrealised profit; nothing of an empty one."""
        currency, values = _currency(item), item.values
        balance = twice or values.get("balance", 0.0)
        profit, key = (0.0, "") if twice else _profit(values)
        if number(balance) == 0.0 and profit == 0.0 and len(self._of[SUMMARY]) > 1:
            return
        owner = self._owner(currency)
        kind = CASH if currency == "USDC" else COLLATERAL
        told = {"amount": "balance", "asset": "currency"}
        coin = {**owner, "kind": kind, "asset": currency, "amount": balance}
        self._records.balances.append(Record(item.source, item.pointer, coin, told))
        if profit == 0.0:
            return
        price = self._known.prices.get(currency)
        amount = profit
        if isinstance(profit, float):
            amount = None if price is None else profit * price
        gained = {**owner, "kind": UNREALISED, "asset": None, "amount": amount}
        self._records.balances.append(Record(item.source, item.pointer, gained, {"amount": key}))

    def _simulation(self, item: Item) -> None:
        """Positions and coins, where no other answer has them, and charges."""
        margins = _mapping(item.values.get("margins"))
        coins = _mapping(item.values["portfolio"].get("currency"))
        joined = bool(coins) or "cross" in {str(key).lower() for key in margins}
        if not self._of[POSITION]:
            held = _mapping(item.values["portfolio"].get("position"))
            for name, size in held.items():
                owner = self._owner(self._settled(name), cross=joined or None)
                values = {**owner, "instrument_id": name, "quantity": size}
                names = dict.fromkeys(("instrument_id", "quantity"), escaped(name))
                pointer = f"{item.pointer}/portfolio/position"
                self._records.positions.append(Record(item.source, pointer, values, names))
        if not self._of[SUMMARY]:
            for name, amount in coins.items():
                coin = str(name).upper()
                kind = CASH if coin == "USDC" else COLLATERAL
                owner = self._owner(coin, cross=True)
                values = {**owner, "kind": kind, "asset": coin, "amount": amount}
                names = dict.fromkeys(("asset", "amount"), escaped(name))
                pointer = f"{item.pointer}/portfolio/currency"
                self._records.balances.append(Record(item.source, pointer, values, names))
        for currency, told in margins.items():
            details = _mapping(_mapping(told).get("initial_margin_details"))
            self._charges(item, str(currency), details, cross=joined or None)

    def _charges(
        self, item: Item, currency: str, details: Mapping[str, Any], *, cross: bool | None
    ) -> None:
        pointer = f"{item.pointer}/margins/{escaped(currency)}/initial_margin_details"
        owner = self._owner(currency.upper(), cross=cross)
        for kind, key in _CHARGES.items():
            if details.get(key) is not None:
                values = {**owner, "kind": kind, "amount": details[key]}
                self._records.balances.append(Record(item.source, pointer, values, {"amount": key}))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _currency(item: Item) -> str:
    return str(item.values.get("currency", "")).upper()


def _cross(values: Mapping[str, Any]) -> bool:
    """Whether a currency is margined together with others."""
    model = values.get("margin_model")
    if isinstance(model, str):
        return model.lower().startswith("cross")
    return values.get("cross_collateral_enabled") is True


def _size_key(values: Mapping[str, Any]) -> str:
    return "size_currency" if values.get("size_currency") is not None else "size"


def _profit(values: Mapping[str, Any]) -> tuple[Any, str]:
    """Profit that is neither in the balance nor an option's value, and the field that says it."""
    told = {key: number(values.get(key)) for key in ("equity", "balance", "options_value")}
    if told["options_value"] is None:
        told["options_value"] = 0.0
    if all(isinstance(value, float) for value in told.values()):
        return told["equity"] - told["balance"] - told["options_value"], "equity"
    if told["equity"] is not None:
        return values["equity"], "equity"
    parts = [values.get(key, 0.0) for key in ("futures_session_upl", "futures_session_rpl")]
    numbers = [number(part) for part in parts]
    if all(isinstance(part, float) for part in numbers):
        return sum(numbers), "futures_session_upl"
    return next(part for part in numbers if not isinstance(part, float)), "futures_session_upl"
