"""Random figures of Derive's older rulebooks, as the crypto oracle has them."""

from __future__ import annotations

from random import Random
from typing import Any

import crypto_oracle_books as books

Dict = dict[str, Any]


def pm1_figures(random: Random) -> Dict:
    """Figures as the oracle has them: those that both portfolio margins have, and a few more."""
    own = books.pm2_figures(random)
    grid = [one for one in own["scenarios"] if one["direction"] not in ("linear", "abs")]
    return {
        **own,
        "scenarios": grid,
        "floor_up": 0.0,
        "static": random.uniform(0.8, 1.0),
        "rate_mult": random.uniform(0.0, 4.0),
        "rate_add": random.uniform(0.0, 0.2),
        "perpetual_share": random.uniform(0.0, 0.1),
        "option_share": random.uniform(0.0, 0.05),
        "base_share": random.uniform(0.0, 0.1),
    }


def standard_figures(random: Random) -> Dict:
    """Figures of one market as the oracle has them."""
    least = random.uniform(0.0, 0.2)
    threshold = random.choice((0.0, 0.4, 0.55, 1.0))
    return {
        "most_spot": least + random.uniform(0.0, 0.3),
        "least_spot": least,
        "mm_call": random.uniform(0.0, 0.2),
        "mm_put": random.uniform(0.0, 0.2),
        "mm_put_mark": random.uniform(0.0, 0.3),
        "unpaired_im": random.uniform(0.0, 2.0),
        "unpaired_mm": random.uniform(0.0, 2.0),
        "mm_offset": random.uniform(1.0, 1.3),
        "perpetual_threshold": threshold,
        "option_threshold": threshold,
        "base_threshold": random.choice((0.0, 0.4, 0.55)),
        "confidence_margin": random.uniform(0.0, 2.0),
        "mm_perpetual": random.uniform(0.0, 0.1),
        "im_perpetual": random.uniform(0.0, 0.2),
        "im_scale": random.uniform(0.5, 1.0),
        "base_factor": random.uniform(0.0, 1.0),
    }
