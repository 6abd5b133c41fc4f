"""SPAN files of your own: `GPU_MARGIN_SPAN_FILES` names a folder of them; none comes with this."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import gpu_margin
from gpu_margin.span_files import read_file
from gpu_margin.span_run import contracts

FOLDER = os.environ.get("GPU_MARGIN_SPAN_FILES", "")
ENDINGS = (".pa2", ".spn", ".xml", ".zip")
FOUND = Path(FOLDER).rglob("*") if FOLDER else ()
FILES = sorted(path for path in FOUND if path.suffix.lower() in ENDINGS)

pytestmark = pytest.mark.skipif(not FOLDER, reason="GPU_MARGIN_SPAN_FILES names no folder")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_real_file_is_read_and_its_contracts_margined(path: Path) -> None:
    """All but a few contracts can be held; one held alone requires what its array says."""
    file, _ = read_file(path)
    listed = contracts(file).contracts
    refused = len(file.failures) + (file.contracts.refused != "").sum()
    print(path.name, dict(file.facts), f"{len(listed)} contracts, {refused} failed or refused")
    assert len(listed) and refused <= 0.1 * len(listed)
    assert listed["contract_id"].is_unique().all()
    sample = listed.sample(min(500, len(listed)), seed=1).sort("contract_id")
    sides = np.where(np.arange(len(sample)) % 2, -1.0, 1.0)
    positions = pl.DataFrame(
        {
            "account_id": sample["contract_id"],
            "contract_id": sample["contract_id"],
            "quantity": sides,
        }
    )
    run = gpu_margin.span(file, positions, backend="numpy")
    known = run.totals.drop_nulls("requirement")
    assert len(known) >= 0.9 * len(sample)
    worst = np.where(sides > 0, sample["scan_long"], sample["scan_short"])
    expected = sample.select(pl.col("contract_id").alias("account_id"), worst=pl.Series(worst))
    alone = run.margins.filter(pl.len().over("account_id") == 1)
    joined = alone.join(expected, on="account_id").filter(pl.col("scan_risk") > 0)
    assert np.allclose(joined["scan_risk"], joined["worst"], rtol=1e-9)
