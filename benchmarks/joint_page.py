"""The tables, the picture and the page that `joint_study` writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from joint_books import LOOKBACK


def _thousands(amount: float) -> str:
    return f"{amount / 1e3:,.0f}"


def crash_table(rows: list[dict[str, Any]]) -> list[str]:
    """Requirements in thousands; in bold what the loss passed."""
    names = list(dict.fromkeys(name for row in rows for name in row["required"]))
    lines = [
        "| day | book | " + " | ".join(names) + " | loss | in two days |",
        "|---|---|" + "---:|" * (len(names) + 2),
    ]
    for row in rows:
        cells = []
        for name in names:
            amount = row["required"].get(name, math.nan)
            text = "" if math.isnan(amount) else _thousands(amount)
            cells.append(f"**{text}**" if amount < row["loss"] else text)
        ends = f"{_thousands(row['loss'])} | {_thousands(row['loss_two_days'])}"
        lines.append(f"| {row['day']} | {row['book']} | {' | '.join(cells)} | {ends} |")
    return lines


def term_table(rows: list[dict[str, Any]]) -> list[str]:
    """The terms of `joint` in thousands."""
    names = [name for name in rows[0]["terms"] if name != "requirement"]
    lines = [
        "| day | book | "
        + " | ".join(names)
        + " | joint | two_sided 0.5 | loss, volatility x1.5 |",
        "|---|---|" + "---:|" * (len(names) + 3),
    ]
    for row in rows:
        cells = [_thousands(row["terms"][name]) for name in (*names, "requirement")]
        cells += [_thousands(row["two_sided"]), _thousands(row["loss_volatility_up"])]
        lines.append(f"| {row['day']} | {row['book']} | {' | '.join(cells)} |")
    return lines


def passed_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| book | days | worst day | worst two days | rulebook | mean requirement | days passed "
        "| within two days | largest loss / requirement |",
        "|---|---:|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        for name, one in row["rulebooks"].items():
            ends = (row["worst"], row["worst_two_days"])
            worst, two = (f"{_thousands(amount)} ({day})" for amount, day in ends)
            lines.append(
                f"| {row['book']} | {row['days']} | {worst} | {two} | {name} "
                f"| {_thousands(one['mean'])} | {one['passed']} | {one['passed_in_two_days']} "
                f"| {one['most']:.2f} |"
            )
    return lines


def picture(rows: list[dict[str, Any]], width: int = 50) -> list[str]:
    """Bars of requirements, `|` where the loss of the day was."""
    lines = ["```"]
    for row in rows:
        most = max([row["loss"], *row["required"].values()])
        lines.append(f"{row['day']}  {row['book']}")
        mark = round(max(row["loss"], 0.0) / most * width)
        for name, amount in row["required"].items():
            bar = ("#" * round(amount / most * width)).ljust(width + 1)
            lines.append(f"  {name:>14} {bar[:mark]}|{bar[mark + 1 :]} {_thousands(amount):>6}")
    return [*lines, "```"]


def conclusions(found: Mapping[str, Any]) -> list[str]:
    """What the tables say, counted."""
    rows = found["crashes"]
    hedged = [row for row in rows if "both" not in row["book"]]
    kinds = {"hedged": hedged, "one-sided": [row for row in rows if row not in hedged]}
    lines = []
    for name in dict.fromkeys(name for row in rows for name in row["required"]):
        for title, chosen in kinds.items():
            own = [row for row in chosen if name in row["required"]]
            if not own:
                continue
            passed = [row for row in own if row["loss"] > row["required"][name]]
            share = [row["required"][name] / row["terms"]["gross_grid"] for row in own]
            lines.append(
                f"| {name} | {title} | {len(own)} | {len(passed)} | {sum(share) / len(share):.0%} |"
            )
    heading = "| rulebook | books | cases | passed by the day's loss | mean share of the grid sum |"
    return [heading, "|---|---|---:|---:|---:|", *lines]


def page(found: Mapping[str, Any], command: str) -> str:
    """The record as markdown; it names no folder."""
    rows, days = found["crashes"], found["every_day"]
    said = [
        "# Books of coins before four crashes",
        "",
        f"`{command}`, {found['date']}. Thousands of USD; a leg is 1 million. Requirements from "
        f"{LOOKBACK} returns up to the close of the day before; bold where the day's loss was "
        "larger. `covariance`: 99% normal, EWMA 0.97. `shortfall`: 97.5% historical. `grid sum`: "
        "the coins' grids, no offset; `grid base`: joined by correlations alone. `joint`: its "
        "defaults, with those of the four days as stress days that were known by then; `joint, "
        "SOL 27%` with the moves that Derive publishes for SOL, up to 27%. Venues: by their tables "
        "of today, coin by coin. Options: at the money, 30 days, at realised volatility (an "
        "assumption), which stays as it is unless said.",
        "",
        *(f"- {note}" for note in found["notes"]),
    ]
    parts = (
        ("Counted", conclusions(found)),
        ("Requirement and loss", crash_table(rows)),
        ("The terms of joint", term_table(rows)),
        ("Set up anew every day", passed_table(days)),
        ("In a picture (`|` is the day's loss)", picture(rows)),
    )
    for title, lines in parts:
        said += ["", f"## {title}", "", *lines]
    return "\n".join(said) + "\n"
