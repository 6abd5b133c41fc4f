"""The published crypto cases as `crypto_oracle` has them, and what they say."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Dict = dict[str, Any]

DIRECTIONS = {"Up": "up", "Down": "down", "None": "none", "Linear": "linear", "Abs": "abs"}
DAY = 86_400.0


def pm2_figures(given: Dict) -> Dict:
    """Figures of a PMRM_2 case, whose DTE_FLOOR is in days."""
    skew, volatility, margin = given["SkewShock"], given["VolShock"], given["Margin"]
    basis, other = given["BasisContingency"], given["OtherContingency"]
    scenarios = [
        {
            "spot": float(one["SpotShock"]),
            "direction": DIRECTIONS[one["VolShockDirection"].title()],
            "damping": float(one["DampeningFactor"]),
        }
        for one in given["Scenarios"]
    ]
    return {
        "scenarios": scenarios,
        "linear_cap": skew["LINEAR_SCALE_CAP"],
        "abs_cap": skew["ABS_SCALE_CAP"],
        "linear_base": skew["LINEAR_CBASE"],
        "abs_base": skew["ABS_CBASE"],
        "least_star": skew["MIN_K_STAR"],
        "width": skew["MIN_WIDTH_SCALE"],
        "skew_volatility": skew["VOL_PARAM_STATIC"],
        "skew_slope": skew["VOL_PARAM_SCALE"],
        "range_up": volatility["VOLRANGEUP"],
        "range_down": volatility["VOLRANGEDOWN"],
        "floor_up": volatility["MIN_VOL_EVAL_SHOCKED"],
        "short_power": volatility["SHORTTERMPOWER"],
        "long_power": volatility["LONGTERMPOWER"],
        "floor_seconds": volatility["DTE_FLOOR"] * DAY,
        "mm_factor": margin["MM_LOSS_FACTOR"],
        "im_factor": margin["IM_LOSS_FACTOR"],
        "short_rate": margin["SHORT_RATE_MULTSCALE"],
        "long_rate": margin["LONG_RATE_MULTSCALE"],
        "short_add": margin["SHORT_RATE_ADDSCALE"],
        "long_add": margin["LONG_RATE_ADDSCALE"],
        "long_base": margin["BASE_STATIC_DISCOUNT"],
        "short_base": margin["BASE_STATIC_DISCOUNT_NEG"],
        "basis_up": basis["SCENARIO_SPOT_UP"],
        "basis_down": basis["SCENARIO_SPOT_DOWN"],
        "basis_add": basis["BASIS_CONT_ADD_FACTOR"],
        "basis_mult": basis["BASIS_CONT_MULT_FACTOR"],
        "peg_threshold": other["PEG_LOSS_THRESHOLD"],
        "peg_factor": other["PEG_LOSS_FACTOR"],
        "confidence_threshold": other["CONF_THRESHOLD"],
        "confidence_margin": other["CONF_MARGIN"],
        "mm_perpetual": other["MM_PERP_PERCENT"],
        "im_perpetual": other["IM_PERP_PERCENT"],
        "mm_option": other["MM_OPTION_PERCENT"],
        "im_option": other["IM_OPTION_PERCENT"],
    }


def pm2_market(given: Dict) -> Dict:
    """Feeds of a PMRM_2 case; expiries in the order of their times."""
    return {
        "spot": given["SpotPrice"],
        "spot_confidence": given["SpotConfidence"],
        "stable": given["StablePrice"],
        "perpetual": {"price": given["PerpPrice"], "confidence": given["PerpConfidence"]},
        "expiries": [
            {
                "seconds": float(feed["FeedExpiry"]),
                "forward": feed["Forward"],
                "fixed": 0.0,
                "forward_confidence": feed["ForwardConfidence"],
                "rate": feed["Rate"],
                "rate_confidence": feed["RateConfidence"],
                "volatility_confidence": feed["OptionVolConfidences"],
                "svi": dict(
                    zip(
                        ("a", "b", "rho", "m", "sigma", "forward", "tau"),
                        map(float, feed["SVIparam"]),
                        strict=True,
                    )
                ),
            }
            for feed in sorted(given["OptionFeeds"], key=lambda feed: feed["FeedExpiry"])
        ],
    }


def pm2_account(given: Dict, market: Dict) -> Dict:
    """The account of a PMRM_2 case, each option at the feed of its own expiry."""
    places = {expiry["seconds"]: place for place, expiry in enumerate(market["expiries"])}
    return {
        "cash": float(given["Cash"]),
        "unrealised": given["UnrealisedPerpPNL"] + given["UnrealisedFunding"],
        "perpetual": float(given["NumPerps"]),
        "options": [
            {
                "expiry": places[float(option["Expiry"])],
                "strike": option["Strike"],
                "call": bool(option["IsCall"]),
                "size": option["Amount"],
                "volatility": option["MarkVol"],
            }
            for option in given["Options"]
        ],
        "coins": [
            {
                "name": coin["Name"],
                "size": coin["Amount"],
                "price": coin["Price"],
                "confidence": coin["Confidence"],
                "risk_cancelling": coin["IsRiskCancelling"],
                "mm": coin["MMHaircut"],
                "im": coin["IMHaircut"],
            }
            for coin in given["Collaterals"]
        ],
    }


def pm2_cases(folder: Path) -> dict[str, Dict]:
    """Every PMRM_2 case of the folder by name: figures, market, account and the given result."""
    cases = {}
    for path in sorted(folder.glob("*.json")):
        given = json.loads(path.read_text())
        market = pm2_market(given["Scenario"])
        cases[path.stem] = {
            "figures": pm2_figures(given["Parameters"]),
            "market": market,
            "account": pm2_account(given["Scenario"], market),
            "result": given["Result"],
            "given": given,
        }
    return cases


def small_market(given: Dict) -> Dict:
    """Feeds of one market of a PMRM 1 or standard margin case."""
    return {
        "spot": float(given["spot"]),
        "spot_confidence": given["spot_conf"],
        "stable": given.get("stable", 1.0),
        "perpetual": {
            "price": float(given["perp"]["price"]),
            "confidence": given["perp"]["conf"],
        },
        "expiries": [
            {
                "seconds": float(expiry["sec"]),
                "forward": expiry.get("fwd_var", expiry.get("fwd")),
                "fixed": expiry.get("fwd_fix", 0.0),
                "forward_confidence": expiry["fwd_conf"],
                "rate": expiry.get("rate", 0.0),
                "rate_confidence": expiry.get("rate_conf", 1.0),
                "volatility_confidence": expiry["vol_conf"],
            }
            for expiry in given["expiries"]
        ],
    }


def small_account(given: Dict) -> Dict:
    """The account of one market of a PMRM 1 or standard margin case."""
    return {
        "cash": given.get("cash", 0.0),
        "unrealised": float(given["perp"]["upnl"]),
        "perpetual": given["perp"]["size"],
        "base": given["base"],
        "options": [
            {
                "expiry": place,
                "strike": option["K"],
                "call": option["call"],
                "size": option["size"],
                "volatility": option["vol"],
            }
            for place, expiry in enumerate(given["expiries"])
            for option in expiry["options"]
        ],
    }


def pm1_figures(given: Dict) -> Dict:
    """Figures of a PMRM 1 case, whose dte_floor is in seconds."""
    return {
        "scenarios": [
            {"spot": float(spot), "direction": DIRECTIONS[direction], "damping": 1.0}
            for spot, direction in given["scen"]
        ],
        "basis_up": given["basis_up"],
        "basis_down": given["basis_dn"],
        "basis_add": given["basis_add"],
        "basis_mult": given["basis_mult"],
        "peg_threshold": given["peg_thr"],
        "peg_factor": given["peg_fac"],
        "confidence_threshold": given["conf_thr"],
        "confidence_margin": given["conf_margin"],
        "base_share": given["base_pct"],
        "perpetual_share": given["perp_pct"],
        "option_share": given["opt_pct"],
        "im_factor": given["im"],
        "static": given["static"],
        "rate_mult": given["rate_mult"],
        "rate_add": given["rate_add"],
        "range_up": given["vup"],
        "range_down": given["vdn"],
        "short_power": given["sp"],
        "long_power": given["lp"],
        "floor_seconds": float(given["dte_floor"]),
    }


def standard_figures(given: Dict) -> Dict:
    """Figures of a standard margin case; its markets share them."""
    return {
        "most_spot": given["maxSpot"],
        "least_spot": given["minSpot"],
        "mm_call": given["mmCall"],
        "mm_put": given["mmPut"],
        "mm_put_mark": given["mmPutMtm"],
        "unpaired_im": given["unpIM"],
        "unpaired_mm": given["unpMM"],
        "mm_offset": given["mmOffset"],
        "perpetual_threshold": given["conf_thr"],
        "option_threshold": given["conf_thr"],
        "base_threshold": given["conf_thr"],
        "confidence_margin": given["oc_factor"],
        "mm_perpetual": given["perp_mm"],
        "im_perpetual": given["perp_im"],
        "im_scale": given["im_scale"],
        "base_factor": given["base_factor"],
        "depeg_threshold": given["depeg_thr"],
        "depeg_factor": given["depeg_fac"],
    }


def pm1_cases(path: Path) -> dict[str, Dict]:
    """Every PMRM 1 case of the file by name."""
    return {
        given["name"]: {
            "figures": pm1_figures(given["params"]),
            "market": small_market(given),
            "account": small_account(given),
            "expected": given["expected"],
        }
        for given in json.loads(path.read_text())
    }


def standard_cases(path: Path) -> dict[str, Dict]:
    """Every standard margin case of the file by name; `markets` as the oracle takes them."""
    cases = {}
    for given in json.loads(path.read_text()):
        figures = standard_figures(given["params"])
        cases[given["name"]] = {
            "figures": figures,
            "markets": [
                (figures, small_market(market), small_account(market))
                for market in given["markets"]
            ],
            "names": [market["name"] for market in given["markets"]],
            "cash": given["cash"],
            "stable": given["stable"],
            "expected": given["expected"],
        }
    return cases


def deribit_cases(path: Path) -> dict[str, Dict]:
    """Both recorded answers by name: perpetuals and futures only, all inverse."""
    cases = {}
    for given in json.loads(path.read_text()):
        params = given["model_params"]
        currency = next(name for name in params["currency"] if name != "usd")
        figures = {
            **params["general"],
            **params["currency"][currency],
            **params["currency_pair"][f"{currency}_usd"],
            "floor_seconds": DAY,
        }
        now = params["general"]["timestamp"] / 1000
        names = sorted(given["position_base"])
        dated = [name for name in names if not name.endswith("PERPETUAL")]
        market = {
            "index": given["index"][f"{currency}_usd"],
            "expiries": [
                {
                    "seconds": deribit_expiry(name) - now,
                    "forward": given["ticker"][name]["mark"],
                    "fixed": 0.0,
                }
                for name in dated
            ],
        }
        expected = given["expected"]
        charges = [
            expected.get(name, 0.0) for name in ("open_orders_margin", "mmp_margin", "spot_margin")
        ]
        account = {
            "contracts": [
                {
                    "expiry": dated.index(name) if name in dated else None,
                    "size": given["position_base"][name],
                    "inverse": True,
                }
                for name in names
            ],
            "options": [],
            "charges": charges,
        }
        cases[given["name"]] = {
            "figures": figures,
            "market": market,
            "account": account,
            "expected": expected,
        }
    return cases


def deribit_expiry(name: str) -> float:
    """Seconds since 1970 of the expiry of a dated contract, at 08:00 UTC."""
    day = datetime.strptime(name.split("-")[1], "%d%b%y").replace(hour=8, tzinfo=UTC)
    return day.timestamp()
