"""What must hold for any book: on random tables, by transforming them and running again."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from random_tables import Case, random_case

import gpu_margin
from gpu_margin import tiling

SEEDS = st.integers(0, 10**6)
FEW = settings(max_examples=8, deadline=None)


def case_of(seed: int) -> Case:
    return random_case(seed, max_instruments=10, max_accounts=6)


def run(case: Case, positions: list[dict[str, Any]] | None = None) -> gpu_margin.Run:
    tables = {
        "positions": case.positions if positions is None else positions,
        "instruments": case.instruments,
        "history": case.history,
        **({"fx": case.fx} if case.fx else {}),
    }
    frames = {name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in tables.items()}
    return gpu_margin.run(case.config, backend="numpy", **frames)


def tables(result: gpu_margin.Run) -> tuple[pl.DataFrame, ...]:
    return (result.margins, result.components, result.sets, result.groups, result.group_totals)


@given(SEEDS)
@FEW
def test_the_order_of_input_rows_changes_no_bit(seed: int) -> None:
    case, rng = case_of(seed), Random(seed)
    shuffled = [rng.sample(rows, len(rows)) for rows in (case.instruments, case.history, case.fx)]
    other = Case(seed, case.config, rng.sample(case.positions, len(case.positions)), *shuffled)
    for ours, theirs in zip(tables(run(case)), tables(run(other)), strict=True):
        assert_frame_equal(ours, theirs, check_exact=True)


@given(SEEDS)
@FEW
def test_the_size_of_tiles_changes_no_bit(seed: int) -> None:
    case = case_of(seed)
    whole = tables(run(case))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "_TILE_SIZE", 5)
        tiled = tables(run(case))
    for ours, theirs in zip(whole, tiled, strict=True):
        assert_frame_equal(ours, theirs, check_exact=True)


@given(SEEDS)
@FEW
def test_requirements_are_never_negative_and_add_up(seed: int) -> None:
    result = run(case_of(seed))
    margins = result.margins
    assert margins["requirement"].min() >= 0.0
    assert not any(math.copysign(1.0, value) < 0 for value in margins["requirement"])
    keys = ["account_id", "model", "level"]
    parts = result.components.group_by(keys).agg(pl.col("amount").sum())
    both = margins.join(parts, on=keys, validate="1:1")
    assert len(both) == len(margins)
    assert both["amount"].to_numpy() == pytest.approx(both["requirement"].to_numpy(), rel=1e-12)
    sets = result.sets.group_by(keys).agg(pl.col("requirement").sum().alias("of_sets"))
    both = margins.join(sets, on=keys)
    assert both["of_sets"].to_numpy() == pytest.approx(both["requirement"].to_numpy(), rel=1e-12)


@given(SEEDS, st.sampled_from([0.5, 2.0, 1024.0]))
@FEW
def test_margin_is_homogeneous(seed: int, factor: float) -> None:
    """Scaling by a power of two scales every figure exactly."""
    case = case_of(seed)
    scaled = [{**row, "quantity": row["quantity"] * factor} for row in case.positions]
    one, other = run(case).margins, run(case, scaled).margins
    amounts = ["requirement", "standalone", "offset", "net_exposure", "gross_exposure"]
    assert_frame_equal(one.select(pl.col(amounts) * factor), other.select(amounts), rel_tol=1e-12)
    assert_frame_equal(one.select("worst_scenario"), other.select("worst_scenario"))


@given(SEEDS)
@FEW
def test_a_book_against_itself_requires_nothing(seed: int) -> None:
    case = case_of(seed)
    against = [{**row, "quantity": -row["quantity"]} for row in case.positions]
    margins = run(case, case.positions + against).margins
    amounts = margins.select("requirement", "standalone", "offset", "offset_ratio", "positions")
    assert not np.any(amounts.to_numpy())


@given(SEEDS)
@FEW
def test_covariance_expected_shortfall_and_worst_loss_never_exceed_standalone(seed: int) -> None:
    case = case_of(seed)
    subadditive = [
        name
        for name, model in case.config["models"].items()
        if model["kind"] == "covariance" or model["measure"]["kind"] != "var"
    ]
    margins = run(case).margins.filter(pl.col("model").is_in(subadditive))
    slack = 1e-9 * margins["gross_exposure"] + 1e-12
    assert (margins["requirement"] <= margins["standalone"] + slack).all()


@given(SEEDS)
@FEW
def test_joining_netting_sets_never_raises_a_subadditive_requirement(seed: int) -> None:
    case = case_of(seed)
    joined = [{**row, "netting_set": None} for row in case.positions]
    apart, together = run(case).margins, run(case, joined).margins
    chosen = pl.col("model").is_in(
        [
            name
            for name, model in case.config["models"].items()
            if model["kind"] == "covariance" or model["measure"]["kind"] != "var"
        ]
    )
    slack = 1e-9 * apart.filter(chosen)["gross_exposure"] + 1e-12
    raised = together.filter(chosen)["requirement"] - apart.filter(chosen)["requirement"]
    assert (raised <= slack).all()


@given(SEEDS)
@example(346)  # an option so far out of the money that its delta is 1e-290
@FEW
def test_one_position_has_no_offset(seed: int) -> None:
    """A single position's margin is its standalone margin, and its group's.

    Variances are squares of exposures: under 1e-150 they vanish below the least float64.
    """
    case = case_of(seed)
    single = [
        {"account_id": f"{i}", "instrument_id": row["instrument_id"], "quantity": row["quantity"]}
        for i, row in enumerate(case.positions)
    ]
    result = run(case, single)
    margins = result.margins
    size = margins.select(pl.max_horizontal("gross_exposure", "standalone")).to_series()
    assert (margins["offset"].abs() <= 1e-12 * size + 1e-150).all()


def test_splitting_a_position_into_rows_changes_nothing_but_rounding() -> None:
    case = case_of(11)
    halves = [{**row, "quantity": row["quantity"] / 2} for row in case.positions] * 2
    assert_frame_equal(run(case).margins, run(case, halves).margins, rel_tol=1e-12)
