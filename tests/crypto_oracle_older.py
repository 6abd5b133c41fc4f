"""Derive's first portfolio margin and its standard margin by plain loops; see `crypto_oracle`."""

from __future__ import annotations

import math

from crypto_oracle import (
    YEAR,
    Dict,
    black,
    by_expiry,
    expiry_value,
    naked_shorts,
    shocked_volatility,
)

# ---------------------------------------------------------------------------------------- PMRM 1


def pm1(figures: Dict, market: Dict, account: Dict) -> Dict:
    """Derive's first portfolio margin. `account["base"]` is the size of the market's own coin."""
    spot, stable = market["spot"], market["stable"]
    places = by_expiry(account)
    flat = {place: [o["volatility"] for o in options] for place, options in places.items()}
    marks = {
        place: expiry_value(market["expiries"][place], options, 1.0, flat[place])
        for place, options in places.items()
    }
    scenarios = [
        pm1_scenario(figures, market, account, marks, scenario) for scenario in figures["scenarios"]
    ]
    basis = 0.0
    for place, options in places.items():
        expiry = market["expiries"][place]
        changes = [
            expiry_value(expiry, options, figures[name], flat[place]) - marks[place]
            for name in ("basis_up", "basis_down")
        ]
        scale = figures["basis_add"] + figures["basis_mult"] * expiry["seconds"] / YEAR
        basis += min(*changes, 0.0) * scale
    worst = min([basis, *scenarios])
    naked = math.fsum(naked_shorts(options) for options in places.values())
    parts = {
        "perpetual": abs(account["perpetual"]) * figures["perpetual_share"] * spot,
        "base": account["base"] * figures["base_share"] * spot,
        "options": naked * figures["option_share"] * spot,
        "confidence": pm1_confidence(figures, market, account),
    }
    fixed = parts["perpetual"] + parts["base"] + parts["options"]
    value = account["unrealised"] + math.fsum(marks.values()) + account["base"] * spot / stable
    peg = figures["peg_factor"] * max(0.0, figures["peg_threshold"] - stable)
    initial = (worst - fixed) * (figures["im_factor"] + peg) - parts["confidence"]
    return {
        "scenarios": scenarios,
        "basis": basis,
        "worst": worst,
        "parts": parts,
        "mark_to_market": value,
        "MM": worst - fixed + value + account["cash"],
        "IM": initial + value + account["cash"],
    }


def pm1_scenario(
    figures: Dict, market: Dict, account: Dict, marks: dict[int, float], scenario: Dict
) -> float:
    """P&L of one scenario; only what is worth something is discounted."""
    move = scenario["spot"] - 1.0
    total = account["perpetual"] * move * market["perpetual"]["price"]
    total += account["base"] * move * market["spot"] / market["stable"]
    for place, options in by_expiry(account).items():
        expiry = market["expiries"][place]
        years = expiry["seconds"] / YEAR
        volatilities = [
            shocked_volatility(
                figures, expiry["seconds"], option["volatility"], scenario["direction"]
            )
            for option in options
        ]
        value = expiry_value(expiry, options, scenario["spot"], volatilities)
        if value > 0:
            growth = figures["rate_mult"] * max(expiry["rate"], 0.0) + figures["rate_add"]
            value *= figures["static"] * math.exp(-years * growth)
        total += value - marks[place]
    return total


def pm1_confidence(figures: Dict, market: Dict, account: Dict) -> float:
    """What initial margin adds for feeds that are not trusted enough."""
    spot, sure = market["spot"], market["spot_confidence"]
    # A perpetual that is held takes its own feed's doubt to all the rest.
    if account["perpetual"]:
        sure = min(sure, market["perpetual"]["confidence"])
    pairs = [(sure, abs(account["perpetual"]) + account["base"])]
    for place, options in by_expiry(account).items():
        expiry = market["expiries"][place]
        names = ("volatility_confidence", "forward_confidence", "rate_confidence")
        least = min(sure, *(expiry[name] for name in names))
        pairs.append((least, math.fsum(abs(option["size"]) for option in options)))
    threshold, scale = figures["confidence_threshold"], figures["confidence_margin"]
    return math.fsum(
        (1 - least) * scale * size * spot for least, size in pairs if least < threshold
    )


# -------------------------------------------------------------------------------- standard margin


def standard(
    markets: list[tuple[Dict, Dict, Dict]], shared: Dict, stable: float, cash: float
) -> Dict:
    """Derive's standard margin of `markets`: (figures, market, account without cash) of each."""
    values = {"IM": cash, "MM": cash, "mark_to_market": 0.0}
    for figures, market, account in markets:
        for level in ("IM", "MM"):
            values[level] += standard_market(figures, market, account, initial=level == "IM")
        values["IM"] -= standard_extra(figures, shared, market, account, stable)
        base = account["base"] * market["spot"] / stable
        values["mark_to_market"] += account["unrealised"] + base
        for place, options in by_expiry(account).items():
            flat = [option["volatility"] for option in options]
            values["mark_to_market"] += expiry_value(market["expiries"][place], options, 1.0, flat)
    return values


def standard_market(figures: Dict, market: Dict, account: Dict, *, initial: bool) -> float:
    """What one market leaves: perpetual, coin and options, before depeg and confidence."""
    share = figures["im_perpetual" if initial else "mm_perpetual"]
    total = account["unrealised"]
    total -= abs(account["perpetual"]) * market["perpetual"]["price"] * share
    scale = figures["im_scale"] if initial else 1.0
    total += account["base"] * market["spot"] * figures["base_factor"] * scale
    for place, options in by_expiry(account).items():
        expiry = market["expiries"][place]
        alone = math.fsum(
            isolated(figures, market["spot"], expiry, option, initial=initial) for option in options
        )
        total += max(alone, most_lost(figures, expiry, options, initial=initial))
    return total


def isolated(figures: Dict, spot: float, expiry: Dict, option: Dict, *, initial: bool) -> float:
    """Margin of one option by itself: 0 for a long, negative for a short."""
    size, strike = option["size"], option["strike"]
    if size >= 0:
        return 0.0
    mark = expiry_value(expiry, [option], 1.0, [option["volatility"]])
    out = max(strike - spot, 0.0) if option["call"] else max(spot - strike, 0.0)
    share = max(figures["most_spot"] - out / spot, figures["least_spot"])
    by_spot = share * spot * size + mark
    if option["call"]:
        return by_spot if initial else figures["mm_call"] * spot * size + mark
    maintenance = min(figures["mm_put"] * spot * size, figures["mm_put_mark"] * mark) + mark
    return min(by_spot, maintenance * figures["mm_offset"]) if initial else maintenance


def most_lost(figures: Dict, expiry: Dict, options: list[Dict], *, initial: bool) -> float:
    """The worst payoff of one expiry, 0 or less, with what unpaired short calls add."""
    forward = expiry["forward"] + expiry["fixed"]
    lost = 0.0
    for settlement in [0.0, *(option["strike"] for option in options)]:
        lost = min(
            lost,
            math.fsum(
                option["size"] * black(settlement, option["strike"], 0.0, option["call"])
                for option in options
            ),
        )
    net = math.fsum(option["size"] for option in options if option["call"])
    return lost + (min(net, 0.0) * figures["unpaired_im" if initial else "unpaired_mm"] * forward)


def standard_extra(
    figures: Dict, shared: Dict, market: Dict, account: Dict, stable: float
) -> float:
    """What initial margin adds: the stable coin off its peg, and feeds not trusted enough."""
    spot, sure = market["spot"], market["spot_confidence"]
    perpetual = abs(account["perpetual"])
    shorts = math.fsum(-option["size"] for option in account["options"] if option["size"] < 0)
    off = max(0.0, shared["depeg_threshold"] - stable) * shared["depeg_factor"]
    pairs = [
        (min(sure, market["perpetual"]["confidence"]), perpetual, "perpetual_threshold"),
        (sure, account["base"], "base_threshold"),
    ]
    for place, options in by_expiry(account).items():
        expiry = market["expiries"][place]
        least = min(sure, expiry["volatility_confidence"], expiry["forward_confidence"])
        size = math.fsum(-option["size"] for option in options if option["size"] < 0)
        pairs.append((least, size, "option_threshold"))
    doubt = math.fsum(
        (1 - least) * figures["confidence_margin"] * spot * size
        for least, size, name in pairs
        if least < figures[name]
    )
    return off * spot * (perpetual + shorts) + doubt
