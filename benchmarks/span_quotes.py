"""How prices of a synthetic exchange are quoted: whole ticks, and the digits PA2 has for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# A truncated eighth as the last digit of a price: no 4 and no 9.
_EIGHTHS = np.array([0, 1, 2, 3, 5, 6, 7, 8], dtype=np.int64)


@dataclass(frozen=True)
class Quote:
    """Ticks of 1 / `parts` x 10^-`power`, written with a decimal `locator` and an `alignment`."""

    locator: int
    alignment: str = ""

    @property
    def parts(self) -> int:
        """Ticks of one written unit: 1, or a power of two where prices are fractions."""
        if self.alignment == "0":
            return 8
        whole = {"C": 32, "K": 64}.get(self.alignment, 1)
        return whole * 8 if whole > 1 and self.locator == 3 else whole

    @property
    def power(self) -> int:
        """Decimal places of one written unit."""
        if self.alignment in ("C", "K"):
            return 0
        return self.locator - 1 if self.alignment == "0" else self.locator

    @property
    def tick(self) -> float:
        return 10.0**-self.power / self.parts

    @property
    def places(self) -> int:
        """Decimals that say every price exactly."""
        return max(self.power, 0) + self.parts.bit_length() - 1

    def digits(self, ticks: Ints) -> Ints:
        """The digits of a price field, as a number."""
        if self.parts == 1:
            return ticks
        whole, rest = ticks // self.parts, ticks % self.parts
        if self.alignment == "0":
            return whole * 10 + _EIGHTHS[rest]
        if self.locator == 2:
            return whole * 100 + rest
        return whole * 1000 + rest // 8 * 10 + _EIGHTHS[rest % 8]

    def decimals(self, ticks: Ints) -> Ints:
        """Prices x 10^`places`, exact."""
        return np.asarray(ticks * (10 ** (self.places - self.power) // self.parts))

    @property
    def field(self) -> str:
        """The locator as PA2 writes it."""
        return f"{self.locator:03d}" if self.locator >= 0 else f"-{-self.locator:02d}"
