"""A crypto venue and its accounts from plain numbers, and Derive's cases as such."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from vectors_case import vectors

from gpu_margin.crypto_book import (
    KINDS,
    CryptoBook,
    CryptoInstruments,
    CryptoMarket,
    Expiries,
)
from gpu_margin.models import derive_standard
from gpu_margin.portfolio import Portfolio, Rows


@dataclass
class Venue:
    """Feeds that grow one by one; names are what they are held by."""

    stable: float = 1.0
    spots: dict[str, tuple[float, float]] = field(default_factory=dict)
    expiries: dict[tuple[str, float], dict[str, float]] = field(default_factory=dict)
    instruments: dict[str, dict[str, Any]] = field(default_factory=dict)

    def underlying(self, name: str, spot: float, confidence: float = 1.0) -> None:
        self.spots[name] = (spot, confidence)

    def expiry(self, underlying: str, seconds: float, forward: float, **more: float) -> None:
        self.expiries[underlying, seconds] = {"forward": forward, **more}

    def held(self, name: str, kind: str, **terms: Any) -> str:
        self.instruments[name] = {"kind": kind, **terms}
        return name

    def option(
        self, underlying: str, seconds: float, strike: float, call: bool, volatility: float
    ) -> str:
        """An option of an expiry that is there already; its name."""
        name = f"{underlying}-{seconds:.0f}-{strike:08.0f}-{'C' if call else 'P'}"
        terms = {"strike": strike, "call": call, "volatility": volatility, "expiry": seconds}
        return self.held(name, "option", underlying=underlying, **terms)

    def market(self) -> CryptoMarket:
        names, expiries = sorted(self.spots), sorted(self.expiries)
        of_expiry = [self.expiries[key] for key in expiries]
        ids = sorted(self.instruments)
        each = [self.instruments[name] for name in ids]

        def column(key: str, absent: Any, kind: type = float) -> Any:
            return np.array([one.get(key, absent) for one in each], dtype=kind)

        def feed(key: str, absent: float) -> Any:
            return np.array([one.get(key, absent) for one in of_expiry], dtype=float)

        own = [one.get("underlying") for one in each]
        dated = [
            expiries.index((one["underlying"], one["expiry"])) if "expiry" in one else -1
            for one in each
        ]
        return CryptoMarket(
            time=0.0,
            underlyings=pl.Series(names, dtype=pl.String),
            spot=np.array([self.spots[name][0] for name in names], dtype=float),
            spot_confidence=np.array([self.spots[name][1] for name in names], dtype=float),
            expiries=Expiries(
                underlying=np.array([names.index(key[0]) for key in expiries], dtype=np.int64),
                seconds=np.array([key[1] for key in expiries], dtype=float),
                forward=feed("forward", 0.0),
                fixed=feed("fixed", 0.0),
                forward_confidence=feed("forward_confidence", 1.0),
                rate=feed("rate", 0.0),
                rate_confidence=feed("rate_confidence", 1.0),
                volatility_confidence=feed("volatility_confidence", 1.0),
            ),
            instruments=CryptoInstruments(
                ids=pl.Series(ids, dtype=pl.String),
                kind=np.array([KINDS.index(one["kind"]) for one in each], dtype=np.int64),
                underlying=np.array(
                    [-1 if name is None else names.index(name) for name in own], dtype=np.int64
                ),
                expiry=np.array(dated, dtype=np.int64),
                strike=column("strike", 0.0),
                call=column("call", False, bool),
                volatility=column("volatility", 0.0),
                price=column("price", np.nan),
                confidence=column("confidence", 1.0),
                inverse=column("inverse", False, bool),
                settlement=pl.Series(
                    [one.get("settlement", "USDC") for one in each], dtype=pl.String
                ),
            ),
            stable=self.stable,
        )


@dataclass(frozen=True)
class Held:
    """One netting set, an account of its own: quantities by instrument, and balances."""

    positions: Mapping[str, float] = field(default_factory=dict)
    cash: float = 0.0
    unrealised: float = 0.0
    charges: Mapping[str, float] = field(default_factory=dict)


def book(market: CryptoMarket, sets: Sequence[Held]) -> CryptoBook:
    """The sets as a book, in the order given."""
    code = {name: n for n, name in enumerate(market.instruments.ids)}
    entries = [sorted((code[k], v) for k, v in one.positions.items()) for one in sets]
    sizes = [len(one) for one in entries]
    flat = [entry for one in entries for entry in one]
    accounts = pl.Series([f"account-{n:06d}" for n in range(len(sets))], dtype=pl.String)
    charges = sorted({name for one in sets for name in one.charges})
    return CryptoBook(
        portfolio=Portfolio(
            accounts=accounts,
            sets=accounts,
            set_account=np.arange(len(sets)),
            rows=Rows(
                np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
                np.array([column for column, _ in flat], dtype=np.int64),
                np.array([value for _, value in flat], dtype=float),
            ),
            good=np.array(sizes, dtype=np.int64),
            bad=np.zeros(len(sets), dtype=np.int64),
        ),
        cash=np.array([one.cash for one in sets], dtype=float),
        unrealised=np.array([one.unrealised for one in sets], dtype=float),
        market=pl.Series([""] * len(sets), dtype=pl.String),
        charges={
            name: np.array([one.charges.get(name, 0.0) for one in sets], dtype=float)
            for name in charges
        },
    )


def cases(folder: str, pattern: str) -> dict[str, Any]:
    """What the files of a folder of vectors hold, by name; empty without the vectors."""
    found: dict[str, Any] = {}
    for path in sorted((vectors() / folder).glob(pattern)):
        held = json.loads(path.read_text(encoding="utf-8"))
        named = {one["name"]: one for one in held} if isinstance(held, list) else held
        found.update(named)
    return found


STANDARD = cases("derive", "sm*.json")


@dataclass(frozen=True)
class StandardCase:
    """One of Derive's cases for its standard account."""

    figures: derive_standard.Figures
    market: CryptoMarket
    held: Held


def standard_case(case: Mapping[str, Any]) -> StandardCase:
    venue, held, upnl = Venue(stable=case["stable"]), {}, 0.0
    for own in case["markets"]:
        name, perpetual = own["name"], own["perp"]
        venue.underlying(name, own["spot"], own["spot_conf"])
        venue.held(
            f"{name}-PERP",
            "perpetual",
            underlying=name,
            price=perpetual["price"],
            confidence=perpetual["conf"],
        )
        venue.held(name, "coin", underlying=name, price=own["spot"], confidence=own["spot_conf"])
        held |= {f"{name}-PERP": perpetual["size"], name: own["base"]}
        upnl += perpetual["upnl"]
        for expiry in own["expiries"]:
            seconds = expiry["sec"]
            venue.expiry(
                name,
                seconds,
                expiry["fwd"],
                forward_confidence=expiry["fwd_conf"],
                volatility_confidence=expiry["vol_conf"],
            )
            for one in expiry["options"]:
                key = venue.option(name, seconds, one["K"], one["call"], one["vol"])
                held[key] = held.get(key, 0.0) + one["size"]
    positions = {name: size for name, size in held.items() if size}
    names = [own["name"] for own in case["markets"]]
    return StandardCase(
        standard_figures(case["params"], names), venue.market(), Held(positions, case["cash"], upnl)
    )


def standard_figures(terms: Mapping[str, float], names: Sequence[str]) -> derive_standard.Figures:
    """Figures of a case: the same for all its markets."""
    market = derive_standard.Market(
        perpetual=derive_standard.Perpetual(maintenance=terms["perp_mm"], initial=terms["perp_im"]),
        option=derive_standard.Option(
            spot_most=terms["maxSpot"],
            spot_least=terms["minSpot"],
            call_maintenance=terms["mmCall"],
            put_maintenance=terms["mmPut"],
            put_mark_maintenance=terms["mmPutMtm"],
            unpaired_maintenance=terms["unpMM"],
            unpaired_initial=terms["unpIM"],
            initial_to_maintenance=terms["mmOffset"],
        ),
        collateral=derive_standard.Collateral(
            factor=terms["base_factor"], initial_scale=terms["im_scale"]
        ),
        confidence=derive_standard.Confidence(
            perpetual=terms["conf_thr"],
            option=terms["conf_thr"],
            collateral=terms["conf_thr"],
            factor=terms["oc_factor"],
        ),
    )
    return derive_standard.Figures(
        peg=derive_standard.Peg(threshold=terms["depeg_thr"], factor=terms["depeg_fac"]),
        markets=dict.fromkeys(names, market),
    )
