"""Derive's fixtures beside the checkout, as a market, a book of one set, and figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import vectors_case

from gpu_margin.crypto_book import (
    COIN,
    OPTION,
    PERPETUAL,
    CryptoBook,
    CryptoInstruments,
    CryptoMarket,
    Expiries,
)
from gpu_margin.crypto_shocks import averaged
from gpu_margin.portfolio import Portfolio, Rows


def folder() -> Path:
    """The folder of the venue's vectors; absent as `vectors_case.folder` says."""
    return vectors_case.folder("derive")


@dataclass(frozen=True)
class Case:
    """One fixture: figures of the one market, and what is expected as it is written."""

    name: str
    market: CryptoMarket
    book: CryptoBook
    figures: Mapping[str, Any]
    expected: Mapping[str, Any]


@dataclass(frozen=True)
class Held:
    """An instrument and how much of it one set holds; expiries by place in their list."""

    name: str
    kind: int
    quantity: float
    price: float = np.nan
    confidence: float = 1.0
    underlying: int = -1
    expiry: int = -1
    strike: float = 0.0
    call: bool = False
    volatility: float = 0.0
    inverse: bool = False


@dataclass(frozen=True)
class Expiry:
    """As the feeds have it."""

    seconds: float
    forward: float
    fixed: float = 0.0
    forward_confidence: float = 1.0
    rate: float = 0.0
    rate_confidence: float = 1.0
    volatility_confidence: float = 1.0
    underlying: int = 0


def market_of(
    held: Sequence[Held],
    expiries: Sequence[Expiry],
    underlyings: Sequence[tuple[str, float, float]],
    stable: float = 1.0,
) -> CryptoMarket:
    """The instruments, once each; `underlyings` are name, spot price and confidence."""
    own = {one.name: one for one in held}
    ordered = [own[name] for name in sorted(own, key=str.encode)]

    def column(name: str, kind: Any = np.float64) -> Any:
        return np.array([getattr(one, name) for one in ordered], dtype=kind)

    def of_expiries(name: str, kind: Any = np.float64) -> Any:
        return np.array([getattr(one, name) for one in expiries], dtype=kind)

    return CryptoMarket(
        time=0.0,
        underlyings=pl.Series([name for name, _, _ in underlyings], dtype=pl.String),
        spot=np.array([spot for _, spot, _ in underlyings], dtype=np.float64),
        spot_confidence=np.array([sure for _, _, sure in underlyings], dtype=np.float64),
        expiries=Expiries(
            underlying=of_expiries("underlying", np.int64),
            seconds=of_expiries("seconds"),
            forward=of_expiries("forward"),
            fixed=of_expiries("fixed"),
            forward_confidence=of_expiries("forward_confidence"),
            rate=of_expiries("rate"),
            rate_confidence=of_expiries("rate_confidence"),
            volatility_confidence=of_expiries("volatility_confidence"),
        ),
        instruments=CryptoInstruments(
            ids=pl.Series([one.name for one in ordered], dtype=pl.String),
            kind=column("kind", np.int64),
            underlying=column("underlying", np.int64),
            expiry=column("expiry", np.int64),
            strike=column("strike"),
            call=column("call", np.bool_),
            volatility=column("volatility"),
            price=column("price"),
            confidence=column("confidence"),
            inverse=column("inverse", np.bool_),
            settlement=pl.Series(
                [one.name if one.kind == COIN else "USDC" for one in ordered], dtype=pl.String
            ),
        ),
        stable=stable,
    )


def book_of(
    market: CryptoMarket,
    sets: Sequence[Iterable[tuple[str, float]]],
    cash: Sequence[float] | None = None,
    unrealised: Sequence[float] | None = None,
    markets: Sequence[str] | None = None,
) -> CryptoBook:
    """Accounts a0, a1, ... of one set each: pairs of instrument and quantity."""
    place = {name: code for code, name in enumerate(market.instruments.ids)}
    rows = [sorted((place[name], quantity) for name, quantity in one) for one in sets]
    entries = [entry for row in rows for entry in row]
    count = len(rows)
    none = [0.0] * count
    names = pl.Series([f"a{n:07}" for n in range(count)], dtype=pl.String)
    return CryptoBook(
        portfolio=Portfolio(
            accounts=names,
            sets=names,
            set_account=np.arange(count, dtype=np.int64),
            rows=Rows(
                np.cumsum([0, *map(len, rows)]).astype(np.int64),
                np.array([code for code, _ in entries], dtype=np.int64),
                np.array([quantity for _, quantity in entries], dtype=np.float64),
            ),
            good=np.array([max(len(row), 1) for row in rows], dtype=np.int64),
            bad=np.zeros(count, dtype=np.int64),
        ),
        cash=np.array(cash or none, dtype=np.float64),
        unrealised=np.array(unrealised or none, dtype=np.float64),
        market=pl.Series(markets or [""] * count, dtype=pl.String),
        charges={},
    )


# ---------------------------------------------------------------- PMRM 2

_SHOCKS = {"Up": "up", "None": "none", "Down": "down", "LINEAR": "linear", "ABS": "abs"}
# Group of the fixture's parameters -> their names there and here.
_FIGURES = {
    "SkewShock": {
        "LINEAR_SCALE_CAP": "linear_cap",
        "LINEAR_CBASE": "linear_cap_slope",
        "ABS_SCALE_CAP": "abs_cap",
        "ABS_CBASE": "abs_cap_slope",
        "MIN_K_STAR": "skew_least_width",
        "MIN_WIDTH_SCALE": "skew_width",
        "VOL_PARAM_STATIC": "skew_volatility",
        "VOL_PARAM_SCALE": "skew_volatility_slope",
    },
    "VolShock": {
        "VOLRANGEUP": "volatility_up",
        "MIN_VOL_EVAL_SHOCKED": "least_volatility_up",
        "VOLRANGEDOWN": "volatility_down",
        "SHORTTERMPOWER": "short_term_power",
        "LONGTERMPOWER": "long_term_power",
        "DTE_FLOOR": "dte_floor",
    },
    "Margin": {
        "MM_LOSS_FACTOR": "mm_factor",
        "IM_LOSS_FACTOR": "im_factor",
        "SHORT_RATE_MULTSCALE": "short_rate_multiple",
        "LONG_RATE_MULTSCALE": "long_rate_multiple",
        "SHORT_RATE_ADDSCALE": "short_rate_add",
        "LONG_RATE_ADDSCALE": "long_rate_add",
        "BASE_STATIC_DISCOUNT": "long_discount",
        "BASE_STATIC_DISCOUNT_NEG": "short_discount",
    },
    "BasisContingency": {
        "SCENARIO_SPOT_UP": "basis_up",
        "SCENARIO_SPOT_DOWN": "basis_down",
        "BASIS_CONT_ADD_FACTOR": "basis_add",
        "BASIS_CONT_MULT_FACTOR": "basis_multiple",
    },
    "OtherContingency": {
        "PEG_LOSS_THRESHOLD": "peg_threshold",
        "PEG_LOSS_FACTOR": "peg_factor",
        "CONF_THRESHOLD": "confidence_threshold",
        "CONF_MARGIN": "confidence_margin",
        "MM_PERP_PERCENT": "perpetual_mm",
        "IM_PERP_PERCENT": "perpetual_im",
        "MM_OPTION_PERCENT": "option_mm",
        "IM_OPTION_PERCENT": "option_im",
    },
}


def pm2_names() -> list[str]:
    """Names of the fixtures, in order of their files."""
    return sorted(file.stem for file in (folder() / "pm2").glob("*.json"))


@cache
def pm2_case(name: str) -> Case:
    """A fixture of PMRM 2 by name."""
    found = json.loads((folder() / "pm2" / f"{name}.json").read_text())
    scenario, result = found["Scenario"], found["Result"]
    expiries = [
        _pm2_expiry(feed) for feed in sorted(scenario["OptionFeeds"], key=lambda f: f["FeedExpiry"])
    ]
    held = _pm2_held(scenario, [expiry.seconds for expiry in expiries])
    spot = (scenario["SpotPrice"], scenario["SpotConfidence"])
    market = market_of(held, expiries, [("BASE", *spot)], scenario["StablePrice"])
    book = book_of(
        market,
        [[(one.name, one.quantity) for one in held]],
        [scenario["Cash"]],
        [scenario["UnrealisedPerpPNL"] + scenario["UnrealisedFunding"]],
        ["BASE"],
    )
    return Case(name, market, book, pm2_figures(found), result)


def pm2_figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a fixture under our names."""
    parameters = found["Parameters"]
    figures: dict[str, Any] = {
        ours: parameters[group][theirs]
        for group, names in _FIGURES.items()
        for theirs, ours in names.items()
    }
    figures["scenarios"] = [
        {
            "spot": one["SpotShock"],
            "volatility": _SHOCKS[one["VolShockDirection"]],
            "dampening": one["DampeningFactor"],
        }
        for one in parameters["Scenarios"]
    ]
    figures["collaterals"] = {
        coin: {
            "risk_cancelling": one["IsRiskCancelling"],
            "mm_haircut": one["MMHaircut"],
            "im_haircut": one["IMHaircut"],
        }
        for coin, one in _numbered(found["Scenario"]["Collaterals"])
    }
    return figures


def _numbered(collaterals: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and entries: a coin that comes twice is two."""
    return [(f"{one['Name']}-{n}", one) for n, one in enumerate(collaterals)]


def _pm2_expiry(feed: Mapping[str, Any]) -> Expiry:
    moving, fixed = averaged(np.array([feed["Forward"]]), np.array([feed["FeedExpiry"]]))
    return Expiry(
        seconds=feed["FeedExpiry"],
        forward=float(moving[0]),
        fixed=float(fixed[0]),
        forward_confidence=feed["ForwardConfidence"],
        rate=feed["Rate"],
        rate_confidence=feed["RateConfidence"],
        volatility_confidence=feed["OptionVolConfidences"],
    )


def _pm2_held(scenario: Mapping[str, Any], seconds: Sequence[float]) -> list[Held]:
    held = [
        Held(name, COIN, one["Amount"], one["Price"], one["Confidence"])
        for name, one in _numbered(scenario["Collaterals"])
    ]
    held += [
        Held(
            f"BASE-{one['Expiry']:09}-{n:04}",
            OPTION,
            one["Amount"],
            underlying=0,
            expiry=seconds.index(one["Expiry"]),
            strike=one["Strike"],
            call=bool(one["IsCall"]),
            volatility=one["MarkVol"],
        )
        for n, one in enumerate(scenario["Options"])
    ]
    terms = (scenario["PerpPrice"], scenario["PerpConfidence"], 0)
    return [*held, Held("BASE-PERP", PERPETUAL, scenario["NumPerps"], *terms)]


# ---------------------------------------------------------------- PMRM 1

_PM1 = {
    "basis_up": "basis_up",
    "basis_dn": "basis_down",
    "basis_add": "basis_add",
    "basis_mult": "basis_multiple",
    "peg_thr": "peg_threshold",
    "peg_fac": "peg_factor",
    "conf_thr": "confidence_threshold",
    "conf_margin": "confidence_margin",
    "base_pct": "base_share",
    "perp_pct": "perpetual_share",
    "opt_pct": "option_share",
    "im": "im_factor",
    "static": "discount",
    "rate_mult": "rate_multiple",
    "rate_add": "rate_add",
    "vup": "volatility_up",
    "vdn": "volatility_down",
    "sp": "short_term_power",
    "lp": "long_term_power",
}


@cache
def pm1_cases() -> dict[str, Case]:
    """The fixtures of PMRM v1 by name, of all files that hold any."""
    files = sorted(folder().glob("pm1*.json"))
    found = [one for file in files for one in json.loads(file.read_text())]
    return {one["name"]: _pm1_case(one) for one in found}


def _pm1_case(found: Mapping[str, Any]) -> Case:
    parameters, perpetual = found["params"], found["perp"]
    figures: dict[str, Any] = {ours: parameters[theirs] for theirs, ours in _PM1.items()}
    figures["dte_floor"] = parameters["dte_floor"] / 86_400.0
    figures["scenarios"] = [
        {"spot": spot, "volatility": _SHOCKS[moved]} for spot, moved in parameters["scen"]
    ]
    feeds = sorted(found["expiries"], key=lambda one: one["sec"])
    expiries = [
        Expiry(
            seconds=one["sec"],
            forward=one["fwd_var"],
            fixed=one["fwd_fix"],
            forward_confidence=one["fwd_conf"],
            rate=one["rate"],
            rate_confidence=one["rate_conf"],
            volatility_confidence=one["vol_conf"],
        )
        for one in feeds
    ]
    options = [
        Held(
            f"BASE-{one['sec']:09}-{n:04}",
            OPTION,
            option["size"],
            underlying=0,
            expiry=place,
            strike=option["K"],
            call=option["call"],
            volatility=option["vol"],
        )
        for place, one in enumerate(feeds)
        for n, option in enumerate(one["options"])
    ]
    terms = (perpetual["price"], perpetual["conf"], 0)
    held = [
        *options,
        Held("BASE", COIN, found["base"], found["spot"], found["spot_conf"], 0),
        Held("BASE-PERP", PERPETUAL, perpetual["size"], *terms),
    ]
    spot = [("BASE", found["spot"], found["spot_conf"])]
    market = market_of(held, expiries, spot, found["stable"])
    pairs = [(one.name, one.quantity) for one in held]
    book = book_of(market, [pairs], [found["cash"]], [perpetual["upnl"]], ["BASE"])
    return Case(found["name"], market, book, figures, found["expected"])
