"""Figures of OKX's portfolio margin: tiers of coins and what is the same for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gpu_margin.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Tier(Settings):
    """What coins of a kind have in common; the tier without coins is for all others.

    `moves` of MR1, smallest first; `extreme` of MR6. MR4 is the delta in USD of each expiry x
    `annualised_basis` x its years, of perpetuals x `perpetual_basis`. MR7 is the deltas in USD of
    all positions x `minimum_charge`, times the factor of the first of `minimum_steps` (up to so
    many USD, factor) that it is within.
    """

    coins: tuple[str, ...]
    moves: tuple[Share, Share, Share]
    extreme: Share
    annualised_basis: Size
    perpetual_basis: Size | None = None
    minimum_charge: Size | None = None
    minimum_steps: tuple[tuple[Annotated[float, Field(ge=0)], Size], ...] = ()


class Volatility(Settings):
    """Options of up to so many days move by `points` (0.3 is 30%) or a share, which is more."""

    days: Annotated[float, Field(ge=0)]
    points: Size
    share: Size


class Borrowing(Settings):
    """Shares of what is borrowed that MR8 requires; how much is borrowed at `most`, in USD."""

    maintenance: Size
    initial: Size
    most: Annotated[float, Field(ge=0)]


class Figures(Settings):
    """All numbers of the rulebook.

    `initial_factor` x maintenance is initial margin, but for MR8; `extreme_share` is MR6's share of
    the loss. `spot_offset` says whether coins hedge contracts. `collateral` is what a coin counts
    for as equity, by its name.
    """

    initial_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    extreme_share: Share
    spot_offset: bool
    waived: tuple[Literal["mr3", "mr5", "mr9"], ...] = ()
    collateral: Mapping[str, Share]
    borrowing: Borrowing
    volatility: tuple[Volatility, ...] | None = None
    tiers: Mapping[str, Tier]

    @model_validator(mode="after")
    def _one_tier_each(self) -> Figures:
        listed = [coin for tier in self.tiers.values() for coin in tier.coins]
        twice = sorted({coin for coin in listed if listed.count(coin) > 1})
        if twice:
            raise ValueError(f"tiers: {', '.join(twice)} listed in several tiers")
        if sum(not tier.coins for tier in self.tiers.values()) != 1:
            raise ValueError("tiers: one tier, and no more, must be without coins: for all others")
        return self

    def tier(self, coin: str) -> Tier:
        """That of a coin."""
        others = next(tier for tier in self.tiers.values() if not tier.coins)
        return next((tier for tier in self.tiers.values() if coin in tier.coins), others)
