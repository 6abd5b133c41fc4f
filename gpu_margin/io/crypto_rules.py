"""Rules that underlyings, expiries and instruments of crypto feeds must meet."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from gpu_margin.crypto_book import COIN, KINDS, OPTION
from gpu_margin.io import rules
from gpu_margin.io.rules import Rule

# Parameters of a volatility surface, in the order of `Feeds.surfaces`.
SVI = ("a", "b", "rho", "m", "sigma", "forward", "tau")
# What cash is kept in, and what a derivative settles in where it does not say so.
STABLE = "USDC"

_YEAR = 365 * 86_400.0
SVI_COLUMNS = tuple(f"svi_{name}" for name in SVI)
SURE = ("forward_confidence", "rate_confidence", "volatility_confidence")
_KIND = pl.col("kind")
OPTIONS = _KIND.eq(KINDS[OPTION])
DATED = _KIND.is_in(("option", "future"))
COINS = _KIND.eq(KINDS[COIN])
RIGHTS = {"call": True, "c": True, "put": False, "p": False}


def underlying_rules(frame: pl.DataFrame) -> list[Rule]:
    """Of underlyings."""
    return [
        *rules.missing_text("underlying"),
        *rules.unique(["underlying"], "duplicate underlying: all copies fail, keep one"),
        *rules.missing_number(frame, "spot"),
        *rules.positive("spot"),
        *confidence(frame, "confidence"),
    ]


def expiry_rules(frame: pl.DataFrame) -> list[Rule]:
    """Of expiries, with the columns of `with_seconds` and the code `spot` of the underlying."""
    absolute = rules.a_time(frame, "expiry")
    return [
        *_known_underlying(pl.lit(True)),
        *_time_rules(frame, absolute, pl.lit(True)),
        Rule("expired: before the time of the feeds", "expiry", pl.col("left") < 0),
        Rule(
            "duplicate expiry of the underlying: all copies fail, keep one",
            "expiry",
            pl.struct("underlying", "instant").is_duplicated(),
        ),
        *rules.missing_number(frame, "forward"),
        *rules.not_negative("forward"),
        *rules.a_number(frame, "fixed"),
        *rules.not_negative("fixed"),
        Rule(
            "forward and fixed are both 0: nothing is left of the forward",
            "forward",
            pl.col("forward") + pl.col("fixed").fill_null(0.0) <= 0,
        ),
        *rules.a_number(frame, "rate"),
        Rule(
            "rate gives a discount factor out of range",
            "rate",
            (pl.col("rate").abs() * pl.col("left") / _YEAR).exp() > rules.LARGEST,
        ),
        *(rule for name in SURE for rule in confidence(frame, name)),
        *_surface_rules(frame),
    ]


def _surface_rules(frame: pl.DataFrame) -> list[Rule]:
    """An svi must give a variance for every strike: at its lowest, it must not be negative."""
    a, b, rho, _, sigma, *_ = (pl.col(name) for name in SVI_COLUMNS)
    lowest = a + b * sigma * (1.0 - rho * rho).sqrt()
    there = pl.col("svi")
    return [
        Rule("svi is not an object of a, b, rho, m, sigma, forward, tau", "svi", _unread("svi")),
        *(rule for name in SVI_COLUMNS for rule in rules.missing_number(frame, name, there)),
        *(rule for name in ("svi_b", "svi_sigma") for rule in rules.not_negative(name, there)),
        Rule("svi_rho outside [-1, 1]", "svi_rho", there & (rho.abs() > 1)),
        *(rule for name in ("svi_forward", "svi_tau") for rule in rules.positive(name, there)),
        Rule("svi gives a negative variance", "svi_a", there & (lowest < 0)),
    ]


def instrument_rules(frame: pl.DataFrame) -> list[Rule]:
    """Of instruments, with the columns of `with_seconds` and of what they refer to."""
    kinds = f"unknown kind: it must be one of {', '.join(KINDS)}"
    flat = pl.col("surface").fill_null(False).not_()
    absolute = [_only(rule, DATED) for rule in rules.a_time(frame, "expiry")]
    return [
        *rules.missing_text("instrument_id"),
        *rules.unique(["instrument_id"], "duplicate instrument_id: all copies fail, keep one"),
        *rules.missing_text("kind"),
        Rule(kinds, "kind", ~_KIND.is_in(KINDS)),
        *_known_underlying(~COINS | pl.col("underlying").is_not_null()),
        *_time_rules(frame, absolute, DATED),
        Rule("expired: before the time of the feeds", "expiry", DATED & (pl.col("left") < 0)),
        Rule(
            "no such expiry: add it to the expiries of the underlying",
            "expiry",
            DATED & pl.col("date_known").is_null(),
        ),
        Rule("failed expiry: see its own failure", "expiry", DATED & pl.col("date").is_null()),
        *rules.missing_number(frame, "strike", OPTIONS),
        *rules.positive("strike", OPTIONS),
        *rules.missing("right", OPTIONS),
        Rule(
            "unknown right: it must be call or put",
            "right",
            OPTIONS & ~pl.col("right").is_in(list(RIGHTS)),
        ),
        *rules.a_number(frame, "volatility", OPTIONS),
        *rules.not_negative("volatility", OPTIONS),
        Rule(
            "no volatility: give one, or an svi of the expiry",
            "volatility",
            OPTIONS & pl.col("volatility").is_null() & flat,
        ),
        *rules.a_number(frame, "price"),
        *rules.missing("price", ~OPTIONS),
        *rules.not_negative("price"),
        *rules.positive("price", _KIND.is_in(("perpetual", "future"))),
        *confidence(frame, "confidence"),
        Rule("inverse is neither true nor false", "inverse", _unread("inverse")),
        *rules.a_text("settlement"),
    ]


def _only(rule: Rule, where: pl.Expr) -> Rule:
    return Rule(rule.reason, rule.field, where & rule.bad)


def _unread(flag: str) -> pl.Expr:
    return pl.col(flag).is_null() & pl.col(f"raw:{flag}").is_not_null()


def _known_underlying(where: pl.Expr) -> list[Rule]:
    return [
        *rules.missing("underlying", where),
        Rule(
            "unknown underlying: add it to the underlyings or correct the name",
            "underlying",
            where & pl.col("spot_known").is_null(),
        ),
        Rule(
            "failed underlying: see its own failure", "underlying", where & pl.col("spot").is_null()
        ),
    ]


def _time_rules(frame: pl.DataFrame, absolute: Sequence[Rule], where: pl.Expr) -> list[Rule]:
    """One of expiry and seconds must be there."""
    late, soon = rules.left_out(frame, "expiry"), rules.left_out(frame, "seconds")
    return [
        *absolute,
        *rules.a_number(frame, "seconds", where),
        Rule("missing expiry: give it, or seconds to it", "expiry", where & late & soon),
        Rule("both expiry and seconds: leave one out", "seconds", where & ~late & ~soon),
    ]


def confidence(frame: pl.DataFrame, column: str) -> list[Rule]:
    """A value that is there must be in [0, 1]."""
    outside = (pl.col(column) < 0) | (pl.col(column) > 1)
    reason = f"{column} outside [0, 1]"
    return [*rules.a_number(frame, column), Rule(reason, column, outside)]
