"""A run with collateral, contributions, pairs of groups and owners, to add up by hand."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

import polars as pl
from test_report import EVIL, build, margins

from gpu_margin.result import Run

ACCOUNTS = [*EVIL, "incomplete"]
# Of the accounts, in this order: what they require and hold, how they stand, what they are called.
REQUIRED = [10_000.0, 20_000.0, 0.0, 4.0, 7e9]
HELD = [2_500.0, 18_000.0, 500.0, 5.0, 0.0]
STATUS = ["liquidation", "call", "ok", "ok", "liquidation"]
CALL = [7_500.0, 2_000.0, 0.0, 0.0, 7e9]


@dataclass(frozen=True)
class Wider(Run):
    """A run that has pairs of groups, whether or not `Run` itself has."""

    group_pairs: pl.DataFrame | None = None


def wider(run: Run, **more: Any) -> Wider:
    return Wider(**{**{field.name: getattr(run, field.name) for field in fields(run)}, **more})


def standing(model: str, **columns: Any) -> pl.DataFrame:
    """Rows of `Run.accounts`: one account after the other, each one set."""
    frame = pl.DataFrame(
        {
            "account_id": ACCOUNTS,
            "netting_set": [None] * 5,
            "collateral_value": HELD,
            "initial": REQUIRED,
            "status": STATUS,
            "call": CALL,
            "complete": [True] * 4 + [False],
        },
        schema_overrides={"netting_set": pl.String},
    ).with_columns(**columns)
    value, initial = pl.col("collateral_value"), pl.col("initial")
    return frame.select(
        "account_id",
        "netting_set",
        pl.lit(model).alias("model"),
        pl.lit("USD").alias("currency"),
        "collateral_value",
        "initial",
        (0.8 * initial).alias("maintenance"),
        (value - initial).alias("excess"),
        pl.when(value > 0).then(initial / value).alias("utilisation"),
        "status",
        "call",
        "complete",
    )


def groups(model: str) -> pl.DataFrame:
    """Two groups per account, which require 120% of it apart."""
    return pl.concat(
        pl.DataFrame(
            {
                "account_id": ACCOUNTS,
                "model": model,
                "product_group": group,
                "requirement": [share * amount for amount in REQUIRED],
                "positions": 1,
            }
        )
        for group, share in ((EVIL[0], 0.9), ("oil", 0.3))
    )


def components(cap: float = 0.0) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "account_id": EVIL[0],
            "model": "normal",
            "level": "initial",
            "component": "offset_cap",
            "amount": cap,
        }
    )


def contributions(amounts: dict[tuple[str, str], float]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "account_id": [account for account, _ in amounts],
            "model": "normal",
            "level": "initial",
            "method": "euler",
            "instrument_id": [instrument for _, instrument in amounts],
            "amount": list(amounts.values()),
        }
    )


OWNERS = pl.DataFrame(
    {
        "owner": [EVIL[0], "both", "more"],
        "model": "normal",
        "level": "initial",
        "venue_sum": [100.0, 300.0, 50.0],
        "joint": [40.0, 100.0, 60.0],
        "capped": [60.0, 140.0, 60.0],
        "saving": [40.0, 160.0, -10.0],
        "venues": [f"A;{EVIL[1]}", "A;B", "A;B"],
    }
)
OF_PAIRS = pl.DataFrame(
    {
        "model": "normal",
        "first": ["a", "a", EVIL[0]],
        "second": ["b", EVIL[0], "b"],
        "separate": [100.0, 200.0, 0.0],
        "together": [75.0, 220.0, 0.0],
        "offset": [25.0, -20.0, 0.0],
        "accounts": [3, 2, 1],
    }
)


def solvent_run() -> Run:
    """Two models, the second without contributions and owners."""
    required = [
        margins(ACCOUNTS, model, REQUIRED, [True] * 4 + [False]) for model in ("normal", "past")
    ]
    run = build(
        required,
        accounts=pl.concat([standing("normal"), standing("past")]),
        groups=pl.concat([groups("normal"), groups("past")]),
        components=components(),
        owners=OWNERS,
        contributions=contributions(
            {
                (EVIL[1], "X"): 15_000.0,
                (EVIL[1], EVIL[0]): 6_000.0,
                (EVIL[1], "residual:smoothing"): -1_000.0,
                (EVIL[0], "X"): 14_000.0,
                (EVIL[0], "Y"): -4_000.0,
                (EVIL[0], "residual:rounding"): 1e-12,
                ("incomplete", "X"): 7e9,
            }
        ),
    )
    config = {
        **run.manifest["config"],
        "collateral": {"call_rounding": 0.5, "call_minimum": 1000.0},
    }
    manifest = {**run.manifest, "config": {**config, "models": {"normal": {}, "past": {}}}}
    return wider(run, group_pairs=OF_PAIRS, manifest=manifest)


def steps(page: str, name: str) -> dict[str, str]:
    """The words under the bars of a waterfall, and the amounts below them."""
    drawn = page[page.index(f'"chart-{name}"') :]
    found = re.search(r'"x":(\[.*?\])', drawn)
    assert found is not None
    words = found[1].encode().decode("unicode_escape")
    labels = [text.rpartition("<br>") for text in re.findall(r'"(.*?)"', words)]
    return {words.replace("<br>", " "): amount for words, _, amount in labels}
