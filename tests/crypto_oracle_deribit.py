"""Deribit's segregated portfolio margin by plain loops, in the settlement currency.

The recorded answers hold perpetuals and futures only. Of options the reading here is the engine's:
their value in coins is that of Black-76 over the forward, and so is what it takes off their delta.

figures   general (mm_factor, buckets_count), of the currency and of the currency pair in one
          dictionary, under the venue's own names, with `floor_seconds` of the volatility shock
market    {"index", "expiries": [{"seconds", "forward", "fixed"}]}
account   {"contracts": [{"expiry" (place or None), "size", "inverse"}],
           "options": [{"expiry", "strike", "call", "size", "volatility", "inverse"}],
           "charges": [open orders, market maker protection, spot]}
"""

from __future__ import annotations

import math

from crypto_oracle import DAY, YEAR, Dict, black, ndtr

EXTENDED = (-0.66, -0.33, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)
SHOCKS = ("down", "none", "up")


def moves(figures: Dict) -> list[float]:
    """The price moves of the standard table, downmost first."""
    each, reach = figures["buckets_count"], figures["price_range"]
    return [reach * place / each for place in range(-each, each + 1)]


def shocked(figures: Dict, seconds: float, volatility: float, direction: str) -> float:
    """An implied volatility under one of the table's volatility moves."""
    if direction == "none":
        return volatility
    power = figures["short_term_vega_power" if seconds < 30 * DAY else "long_term_vega_power"]
    scale = (30 * DAY / max(seconds, figures["floor_seconds"])) ** power
    if direction == "down":
        return volatility * max(0.0, 1.0 - figures["volatility_range_down"] * scale)
    up = volatility * (1.0 + figures["volatility_range_up"] * scale)
    return max(up, figures["min_volatility_for_shock_up"])


def forward_after(market: Dict, place: int | None, move: float) -> float:
    """The forward after a move of the index; what is fixed of it stays. A perpetual's is 1."""
    if place is None:
        return 1.0 + move
    expiry = market["expiries"][place]
    return expiry["forward"] * (1 + move) + expiry["fixed"]


def option_value(market: Dict, option: Dict, move: float, volatility: float) -> float:
    """USD value of one unit of an option after a move of everything by `move`."""
    total = volatility * math.sqrt(market["expiries"][option["expiry"]]["seconds"] / YEAR)
    forward = forward_after(market, option["expiry"], move)
    return black(forward, option["strike"], total, option["call"])


def instrument_pnl(figures: Dict, market: Dict, held: Dict, move: float, direction: str) -> float:
    """P&L of one holding: in coins where it is inverse, else in USD."""
    place = held["expiry"]
    before, after = forward_after(market, place, 0.0), forward_after(market, place, move)
    if "strike" not in held:
        unit = 1.0 - before / after if held["inverse"] else market["index"] * (after / before - 1)
        return held["size"] * unit
    seconds = market["expiries"][place]["seconds"]
    moved = shocked(figures, seconds, held["volatility"], direction)
    new = option_value(market, held, move, moved)
    old = option_value(market, held, 0.0, held["volatility"])
    unit = new / after - old / before if held["inverse"] else new - old
    return held["size"] * unit


def extended_pnl(figures: Dict, market: Dict, held: Dict, move: float) -> float:
    """One holding in the extended table: scaled to the edge of the standard one."""
    reach = figures["price_range"]
    pnl = instrument_pnl(figures, market, held, move, "up")
    pnl *= figures["extended_table_factor"] * min(reach / abs(move), 1.0)
    # Coins are turned into USD after the move, and back at the edge of the standard table.
    edge = min(max(move, -reach), reach)
    return pnl * (1 + move) / (1 + edge) if held["inverse"] else pnl


def offset(figures: Dict, pnl: float, unit: float) -> float:
    """What is left of a gain of one column of the table, in what it is margined in."""
    if pnl <= 0:
        return pnl
    return min(pnl * figures["pnl_offset"], figures["max_offsetable_pnl"] / unit)


def deribit(figures: Dict, market: Dict, account: Dict, inverse: bool) -> Dict:
    """Margin of one account in one currency, all whose products are `inverse` or none of them."""
    held = [*account["contracts"], *account["options"]]
    index, reach = market["index"], figures["price_range"]
    cells = [(move, direction) for move in moves(figures) for direction in SHOCKS]
    standard, standard_left, extended_left = [], [], []
    for move, direction in cells:
        pnl = math.fsum(instrument_pnl(figures, market, one, move, direction) for one in held)
        standard.append(pnl)
        standard_left.append(offset(figures, pnl, index * (1 + move) if inverse else 1.0))
    for move in EXTENDED:
        unit = index * (1 + min(max(move, -reach), reach)) if inverse else 1.0
        pnl = math.fsum(extended_pnl(figures, market, one, move) for one in held)
        forgiven = max(abs(move) / reach - 1, 0.0) * figures["extended_dampener"] / unit
        pnl = math.copysign(max(abs(pnl) - forgiven, 0.0), pnl)
        extended_left.append(offset(figures, pnl, unit))
    worst = max(0.0, -min([*standard_left, *extended_left]))
    rolled, delta = roll(figures, market, held)
    shock = delta_shock(figures, market, delta) / (1.0 if inverse else 1 / market["index"])
    matrix = worst + rolled + shock
    return {
        "standard": standard,
        "aggregated_standard": standard_left,
        "aggregated_extended": extended_left,
        "worst_case": worst,
        "roll_shock": rolled,
        "delta_shock": shock,
        "risk_matrix_margin": matrix,
        "initial_margin": matrix + math.fsum(account["charges"]),
        "maintenance_margin": figures["mm_factor"] * matrix,
    }


def delta_of(market: Dict, one: Dict) -> float:
    """Coins that one holding moves like."""
    if one["expiry"] is None:
        return one["size"]
    expiry = market["expiries"][one["expiry"]]
    if "strike" not in one:
        return one["size"] * expiry["forward"] / forward_after(market, one["expiry"], 0.0)
    total = one["volatility"] * math.sqrt(expiry["seconds"] / YEAR)
    forward = forward_after(market, one["expiry"], 0.0)
    if total <= 0:
        call = 1.0 if forward > one["strike"] else 0.0
    else:
        call = ndtr(math.log(forward / one["strike"]) / total + total / 2)
    slope = call if one["call"] else call - 1
    # What the option is worth in coins has no price risk in coins.
    owned = option_value(market, one, 0.0, one["volatility"]) / forward if one["inverse"] else 0.0
    return one["size"] * (slope * expiry["forward"] / forward - owned)


def roll(figures: Dict, market: Dict, held: list[Dict]) -> tuple[float, float]:
    """The roll shock, and the account's delta in coins."""
    nets: dict[int | None, float] = {}
    for one in held:
        nets[one["expiry"]] = nets.get(one["expiry"], 0.0) + delta_of(market, one)
    total = 0.0
    for place, net in nets.items():
        years = 0.0 if place is None else market["expiries"][place]["seconds"] / YEAR
        rate = max(
            figures["min_annualised_move"], math.exp(figures["annualised_move_risk"] * years) - 1
        )
        unit = 1.0 if all(one["inverse"] for one in held) else market["index"]
        total += abs(net) * rate * unit
    return total, math.fsum(nets.values())


def delta_shock(figures: Dict, market: Dict, delta: float) -> float:
    """The delta shock in coins: beyond a threshold in USD, which no published case reaches."""
    above = abs(delta) - figures["delta_total_liq_shock_threshold"] / market["index"]
    if above <= 0:
        return 0.0
    return min(figures["m_inc"] * above, figures["max_delta_shock"]) * abs(delta)
