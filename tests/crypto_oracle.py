"""Crypto portfolio margin again, by plain loops, to hold the engine to: nothing of gpu_margin.

Written from the rulebook notes alone. A market is a dictionary, an account is a dictionary, and so
are the figures; `tests/crypto_oracle_vectors.py` makes them from the published cases. Slow on
purpose: one account at a time, one option at a time.

    market   {"spot", "spot_confidence", "stable", "perpetual": {"price", "confidence"},
              "expiries": [{"seconds", "forward", "fixed", "forward_confidence", "rate",
                            "rate_confidence", "volatility_confidence"}]}
    account  {"cash", "unrealised", "perpetual" (size),
              "options": [{"expiry" (place), "strike", "call", "size", "volatility"}],
              "coins": [{"size", "price", "confidence", "risk_cancelling", "mm", "im"}]}
"""

from __future__ import annotations

import math
from typing import Any

YEAR = 365 * 86_400.0
DAY = 86_400.0
AVERAGING = 1_800.0
# Total volatility (volatility times the root of time) above which a call is worth its forward.
MOST_TOTAL_VOLATILITY = 24.0
# SVI: how far moneyness may run, in standard deviations, and the most total variance.
MOST_DEVIATIONS, MOST_VARIANCE = 4.0, 144.0

Dict = dict[str, Any]


def ndtr(x: float) -> float:
    """The standard normal distribution at x."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def black(forward: float, strike: float, total: float, call: bool) -> float:
    """Undiscounted option price at total volatility `total` = volatility times the root of time."""
    if total >= MOST_TOTAL_VOLATILITY:
        price = forward
    elif total <= 0.0 or forward <= 0.0 or strike <= 0.0:
        price = max(forward - strike, 0.0)
    else:
        first = math.log(forward / strike) / total + total / 2
        price = max(forward * ndtr(first) - strike * ndtr(first - total), 0.0)
    return price if call else max(price - (forward - strike), 0.0)


def svi_volatility(svi: Dict, strike: float) -> float:
    """Volatility of `strike` on a feed's surface, whose forward and years are its own."""
    a, b, rho, m, sigma = (svi[name] for name in ("a", "b", "rho", "m", "sigma"))
    most = MOST_DEVIATIONS * math.sqrt(a + b * sigma)
    k = min(max(math.log(strike / svi["forward"]), -most), most)
    variance = a + b * (rho * (k - m) + math.sqrt((k - m) ** 2 + sigma**2))
    return math.sqrt(min(variance, MOST_VARIANCE) / svi["tau"])


def volatility_factor(figures: Dict, seconds: float, direction: str) -> float:
    """What a scenario multiplies volatilities of one expiry by."""
    if direction == "none":
        return 1.0
    power = figures["short_power"] if seconds <= 30 * DAY else figures["long_power"]
    scale = (30 * DAY / max(seconds, figures["floor_seconds"])) ** power
    if direction == "up":
        return 1.0 + figures["range_up"] * scale
    return max(0.0, 1.0 - figures["range_down"] * scale)


def shocked_volatility(figures: Dict, seconds: float, volatility: float, direction: str) -> float:
    """A volatility in a scenario; an up shock does not end below the figure's floor."""
    shocked = volatility * volatility_factor(figures, seconds, direction)
    return max(shocked, figures.get("floor_up", 0.0)) if direction == "up" else shocked


def by_expiry(account: Dict) -> dict[int, list[Dict]]:
    """The account's options by place of expiry, in the order of the expiries."""
    places: dict[int, list[Dict]] = {}
    for option in sorted(account["options"], key=lambda option: option["expiry"]):
        places.setdefault(option["expiry"], []).append(option)
    return places


def expiry_value(
    expiry: Dict, options: list[Dict], spot: float, volatilities: list[float]
) -> float:
    """Value of one expiry's options, undiscounted, at a spot factor and at these volatilities."""
    forward = expiry["fixed"] + expiry["forward"] * spot
    root = math.sqrt(expiry["seconds"] / YEAR)
    return math.fsum(
        option["size"] * black(forward, option["strike"], volatility * root, option["call"])
        for option, volatility in zip(options, volatilities, strict=True)
    )


def naked_shorts(options: list[Dict]) -> float:
    """Shorts of one expiry, less what a long of the other right at the same strike takes off."""
    naked = 0.0
    for strike in sorted({option["strike"] for option in options}):
        call = math.fsum(o["size"] for o in options if o["strike"] == strike and o["call"])
        put = math.fsum(o["size"] for o in options if o["strike"] == strike and not o["call"])
        if call * put < 0:
            naked += max(-(call + put), 0.0)
        else:
            naked += max(-call, 0.0) + max(-put, 0.0)
    return naked


# ---------------------------------------------------------------------------------------- PMRM_2


def pm2(figures: Dict, market: Dict, account: Dict) -> Dict:
    """Derive's portfolio margin, second version: margin values, scenarios and what they are of."""
    spot, stable = market["spot"], market["stable"]
    coins = [{**coin, "value": coin["size"] * coin["price"] / stable} for coin in account["coins"]]
    base = [base_value(market, place, options) for place, options in by_expiry(account).items()]
    scenarios = [
        pm2_scenario(figures, market, account, coins, scenario) for scenario in figures["scenarios"]
    ]
    basis = pm2_basis(figures, market, account)
    worst = min([basis, *scenarios])
    parts = pm2_parts(figures, market, account, coins)
    peg = figures["peg_factor"] * max(0.0, figures["peg_threshold"] - stable)
    options_value, coins_value = math.fsum(base), math.fsum(coin["value"] for coin in coins)
    value = account["unrealised"] + options_value + coins_value
    maintenance = math.fsum(parts[name] for name in ("perpetual", "options", "coins"))
    initial = math.fsum(parts.values())
    return {
        "scenarios": scenarios,
        "basis": basis,
        "worst": worst,
        "parts": parts,
        "mark_to_market": value,
        "options_value": options_value,
        "coins_value": coins_value,
        "MM": worst * figures["mm_factor"] - maintenance + value + account["cash"],
        "IM": worst * (figures["im_factor"] + peg) - initial + value + account["cash"],
        "spot": spot,
    }


def base_value(market: Dict, place: int, options: list[Dict]) -> float:
    """Mark-to-market of one expiry's options: Black at the feed's own rate, a negative one as 0."""
    expiry = market["expiries"][place]
    value = expiry_value(expiry, options, 1.0, [option["volatility"] for option in options])
    return value * math.exp(-max(expiry["rate"], 0.0) * expiry["seconds"] / YEAR)


def pm2_discount(figures: Dict, expiry: Dict, value: float) -> float:
    """The static discount of one expiry's shocked value `value`, which it multiplies."""
    years, rate = expiry["seconds"] / YEAR, max(expiry["rate"], 0.0)
    if value >= 0:
        growth = rate * figures["long_rate"] + figures["long_add"]
        return figures["long_base"] * math.exp(-years * growth)
    growth = rate * figures["short_rate"] + figures["short_add"]
    return min(figures["short_base"] * math.exp(years * growth), math.exp(rate * years))


def skew_factor(figures: Dict, expiry: Dict, strike: float, skew: str) -> float:
    """What a skew scenario multiplies the volatility of one strike by."""
    root = math.sqrt(expiry["seconds"] / YEAR)
    cap = figures[f"{skew}_cap"] + figures[f"{skew}_base"] * root
    width = figures["width"] * (figures["skew_volatility"] + root * figures["skew_slope"])
    star = max(figures["least_star"], root * width)
    moneyness = math.log(strike / (expiry["forward"] + expiry["fixed"]))
    distance = moneyness if skew == "linear" else abs(moneyness)
    # By the side of the strike, not a clip: the cap is negative where `base` eats it up, and then
    # a raw factor that lies beyond it stays as it is.
    raw = distance * cap / star
    return 1.0 + (min(raw, cap) if distance >= 0 else max(raw, -cap))


def pm2_scenario(
    figures: Dict, market: Dict, account: Dict, coins: list[Dict], scenario: Dict
) -> float:
    """P&L of one scenario."""
    move, direction = scenario["spot"] - 1.0, scenario["direction"]
    skewed = direction in ("linear", "abs")
    terms = []
    for place, options in by_expiry(account).items():
        expiry = market["expiries"][place]
        volatilities = [
            option["volatility"] * skew_factor(figures, expiry, option["strike"], direction)
            if skewed
            else shocked_volatility(figures, expiry["seconds"], option["volatility"], direction)
            for option in options
        ]
        value = expiry_value(expiry, options, scenario["spot"], volatilities)
        discount = math.exp(-max(expiry["rate"], 0.0) * expiry["seconds"] / YEAR)
        value *= discount
        value *= pm2_discount(figures, expiry, value)
        change = value - base_value(market, place, options)
        terms.append(-abs(change) if skewed else change)
    terms.append(account["perpetual"] * move * market["perpetual"]["price"])
    terms += [coin["value"] * move for coin in coins if coin["risk_cancelling"]]
    return scenario["damping"] * math.fsum(terms)


def pm2_basis(figures: Dict, market: Dict, account: Dict) -> float:
    """The basis contingency, 0 or a loss: each expiry's forward moves alone."""
    total = 0.0
    for place, options in by_expiry(account).items():
        expiry = market["expiries"][place]
        years = expiry["seconds"] / YEAR
        discount = math.exp(-max(expiry["rate"], 0.0) * years)
        flat = [option["volatility"] for option in options]
        marked = base_value(market, place, options)
        changes = [
            discount * expiry_value(expiry, options, figures[name], flat) - marked
            for name in ("basis_up", "basis_down")
        ]
        scale = figures["basis_add"] + figures["basis_mult"] * years
        total += min(*changes, 0.0) * scale
    return total


def pm2_parts(figures: Dict, market: Dict, account: Dict, coins: list[Dict]) -> Dict:
    """The contingencies, each >= 0 where coins are; initial margin is on top of maintenance's."""
    spot = market["spot"]
    perpetual = abs(account["perpetual"]) * spot
    naked = math.fsum(naked_shorts(options) for options in by_expiry(account).values()) * spot
    return {
        "perpetual": perpetual * figures["mm_perpetual"],
        "perpetual_initial": perpetual * figures["im_perpetual"],
        "options": naked * figures["mm_option"],
        "options_initial": naked * figures["im_option"],
        "coins": math.fsum(coin["value"] * coin["mm"] for coin in coins),
        "coins_initial": math.fsum(coin["value"] * coin["im"] for coin in coins),
        "confidence": pm2_confidence(figures, market, account, coins),
    }


def pm2_confidence(figures: Dict, market: Dict, account: Dict, coins: list[Dict]) -> float:
    """What initial margin adds for feeds that are not trusted enough."""
    spot, sure = market["spot"], market["spot_confidence"]
    pairs = []
    perpetual_sure = min(sure, market["perpetual"]["confidence"])
    if account["perpetual"]:
        pairs.append((perpetual_sure, abs(account["perpetual"]) * spot))
        sure_of_options = perpetual_sure
    else:
        sure_of_options = sure
    for place, options in by_expiry(account).items():
        expiry = market["expiries"][place]
        names = ("volatility_confidence", "forward_confidence", "rate_confidence")
        least = min(sure_of_options, *(expiry[name] for name in names))
        pairs.append((least, math.fsum(abs(option["size"]) for option in options) * spot))
    pairs += [(min(coin["confidence"], sure), coin["value"]) for coin in coins]
    threshold, scale = figures["confidence_threshold"], figures["confidence_margin"]
    return math.fsum((1 - least) * scale * size for least, size in pairs if least < threshold)
