"""Figures of the crypto oracle under the names that the engine's rulebooks have for them."""

from __future__ import annotations

from typing import Any

Dict = dict[str, Any]

DAY = 86_400.0
PM2 = {
    "im_factor": "im_factor",
    "mm_factor": "mm_factor",
    "long_discount": "long_base",
    "long_rate_multiple": "long_rate",
    "long_rate_add": "long_add",
    "short_discount": "short_base",
    "short_rate_multiple": "short_rate",
    "short_rate_add": "short_add",
    "volatility_up": "range_up",
    "volatility_down": "range_down",
    "short_term_power": "short_power",
    "long_term_power": "long_power",
    "least_volatility_up": "floor_up",
    "linear_cap": "linear_cap",
    "linear_cap_slope": "linear_base",
    "abs_cap": "abs_cap",
    "abs_cap_slope": "abs_base",
    "skew_least_width": "least_star",
    "skew_width": "width",
    "skew_volatility": "skew_volatility",
    "skew_volatility_slope": "skew_slope",
    "basis_up": "basis_up",
    "basis_down": "basis_down",
    "basis_add": "basis_add",
    "basis_multiple": "basis_mult",
    "peg_threshold": "peg_threshold",
    "peg_factor": "peg_factor",
    "confidence_threshold": "confidence_threshold",
    "confidence_margin": "confidence_margin",
    "perpetual_mm": "mm_perpetual",
    "perpetual_im": "im_perpetual",
    "option_mm": "mm_option",
    "option_im": "im_option",
}


def pm2(figures: Dict, accepted: Dict) -> Dict:
    """Of one market of PMRM 2; `accepted` are its coins."""
    return {
        **{ours: figures[oracle] for ours, oracle in PM2.items()},
        "dte_floor": figures["floor_seconds"] / DAY,
        "scenarios": [
            {
                "spot": one["spot"],
                "volatility": one["direction"],
                "dampening": one["damping"],
            }
            for one in figures["scenarios"]
        ],
        "collaterals": {
            coin: {
                "risk_cancelling": terms["risk_cancelling"],
                "mm_haircut": terms["mm"],
                "im_haircut": terms["im"],
            }
            for coin, terms in accepted.items()
        },
    }


PM1 = {
    "im_factor": "im_factor",
    "discount": "static",
    "rate_multiple": "rate_mult",
    "rate_add": "rate_add",
    "volatility_up": "range_up",
    "volatility_down": "range_down",
    "short_term_power": "short_power",
    "long_term_power": "long_power",
    "basis_up": "basis_up",
    "basis_down": "basis_down",
    "basis_add": "basis_add",
    "basis_multiple": "basis_mult",
    "peg_threshold": "peg_threshold",
    "peg_factor": "peg_factor",
    "confidence_threshold": "confidence_threshold",
    "confidence_margin": "confidence_margin",
    "perpetual_share": "perpetual_share",
    "option_share": "option_share",
    "base_share": "base_share",
}


def pm1(figures: Dict) -> Dict:
    """Of one market of PMRM 1."""
    return {
        **{ours: figures[oracle] for ours, oracle in PM1.items()},
        "dte_floor": figures["floor_seconds"] / DAY,
        "scenarios": [
            {"spot": one["spot"], "volatility": one["direction"]} for one in figures["scenarios"]
        ],
    }


def standard(figures: Dict) -> Dict:
    """Of one market of the standard margin."""
    return {
        "perpetual": {
            "maintenance": figures["mm_perpetual"],
            "initial": figures["im_perpetual"],
        },
        "option": {
            "spot_most": figures["most_spot"],
            "spot_least": figures["least_spot"],
            "call_maintenance": figures["mm_call"],
            "put_maintenance": figures["mm_put"],
            "put_mark_maintenance": figures["mm_put_mark"],
            "unpaired_maintenance": figures["unpaired_mm"],
            "unpaired_initial": figures["unpaired_im"],
            "initial_to_maintenance": figures["mm_offset"],
        },
        "collateral": {"factor": figures["base_factor"], "initial_scale": figures["im_scale"]},
        "confidence": {
            "perpetual": figures["perpetual_threshold"],
            "option": figures["option_threshold"],
            "collateral": figures["base_threshold"],
            "factor": figures["confidence_margin"],
        },
    }
