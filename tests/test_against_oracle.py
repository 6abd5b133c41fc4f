"""The whole run against an independent calculation by plain loops, on random tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import oracle
import polars as pl
import pytest
from random_tables import Case, random_case, write_case
from strict_backend import BACKEND as STRICT

import gpu_margin
from gpu_margin.backend import Backend

FIGURES = ("requirement", "standalone", "offset", "net_exposure", "gross_exposure")


def compare(case: Case, run: gpu_margin.Run) -> None:
    """Every figure within 1e-9 of the oracle's, relative to what was added up to make it."""
    expected = oracle.compute(case.config, case.positions, case.instruments, case.history, case.fx)
    accounts = keyed(run.margins, ["account_id", "model"])
    assert accounts.keys() == expected.accounts.keys()
    for key, figures in expected.accounts.items():
        same_figures(accounts[key], figures, expected.losses.get(key, {}))
    sets = keyed(run.sets, ["account_id", "netting_set", "model"])
    assert sets.keys() == expected.sets.keys()
    for set_key, figures in expected.sets.items():
        same_figures(sets[set_key], figures, expected.set_losses.get(set_key, {}))
    same_groups(keyed(run.groups, ["account_id", "model", "product_group"]), expected, accounts)
    assert run.failures.is_empty()
    assert run.margins["complete"].all()


def keyed(table: pl.DataFrame, keys: list[str]) -> dict[Any, dict[str, Any]]:
    return {tuple(row[key] for key in keys): row for row in table.iter_rows(named=True)}


def same_figures(
    got: Mapping[str, Any], expected: Mapping[str, Any], losses: Mapping[str, float]
) -> None:
    scale = max(expected["standalone"], expected["gross_exposure"])
    for name in FIGURES:
        assert got[name] == pytest.approx(expected[name], rel=1e-9, abs=1e-9 * scale), name
    assert got["offset_ratio"] == pytest.approx(expected["offset_ratio"], rel=1e-9, abs=1e-9)
    assert got["positions"] == expected["positions"]
    if got["worst_scenario"] != expected["worst_scenario"]:  # equal but for rounding
        largest, other = losses[expected["worst_scenario"]], losses[got["worst_scenario"]]
        assert other == pytest.approx(largest, abs=1e-11 * scale)


def same_groups(
    got: dict[Any, dict[str, Any]], expected: oracle.Result, accounts: Mapping[Any, Any]
) -> None:
    assert set(expected.groups) == {key for key, row in got.items() if row["positions"]}
    for key, figures in expected.groups.items():
        scale = accounts[key[0], key[1]]["gross_exposure"]
        assert got[key]["positions"] == figures["positions"]
        close = pytest.approx(figures["requirement"], rel=1e-9, abs=1e-9 * scale)
        assert got[key]["requirement"] == close


@pytest.mark.parametrize("seed", range(30))
def test_random_tables(seed: int, tmp_path: Path) -> None:
    case = random_case(seed)
    config = write_case(case, tmp_path, "csv" if seed % 2 else "parquet")
    compare(case, gpu_margin.run(config, backend="numpy"))


@pytest.mark.parametrize("backend", ["jax", STRICT], ids=["jax", "strict"])
@pytest.mark.parametrize("seed", range(100, 103))
def test_random_tables_on_other_backends(seed: int, backend: str | Backend, tmp_path: Path) -> None:
    case = random_case(seed, max_instruments=12, max_accounts=6)
    compare(case, gpu_margin.run(write_case(case, tmp_path, "parquet"), backend=backend))
