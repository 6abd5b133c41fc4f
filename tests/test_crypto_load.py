"""The benchmark of crypto portfolio margin measures, compares, and leaves a record."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import crypto_book
import crypto_load

from gpu_margin import backend as backends

WORDS = ["--accounts=20", "--plain=5", "--rounds=1", "--backend=numpy"]


def test_everything_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crypto_load.main([*WORDS, f"--out={tmp_path}"]) == 0
    (path,) = tmp_path.glob("crypto-*.json")
    found = json.loads(path.read_text())
    assert str(tmp_path) not in path.read_text()
    assert found["command"].startswith("python benchmarks/crypto_load.py --accounts 20 ")
    assert {"machine", "versions", "created"} <= set(found)
    figures = {(one["scenario"], one["name"]): one for one in found["figures"]}
    ours = figures["derive_pm2, 20 accounts of 17 legs", "accounts per second"]
    assert ours["target"] == 100_000 and ours["value"] > 0
    for other in ("plain Python, 5", "NumPy and SciPy, 20"):
        assert figures[f"{other} accounts of 17 legs", "margins that differ"]["value"] == 0
    for rulebook in ("derive_pm1", "derive_standard", "deribit_pm"):
        assert figures[f"{rulebook}, 20 accounts of 17 legs", "accounts per second"]["value"] > 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(found["figures"]) + 1


def test_without_paradex_the_rest_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """A python that does not have it, or does not run at all, is said."""
    assert crypto_load.main([*WORDS, "--paradex=no-such-python"]) == 0
    shown = capsys.readouterr()
    assert "paradex-py is left out: " in shown.err
    assert "deribit_pm" in shown.out and "paradex" not in shown.out


def test_accounts_that_fail_are_not_measured() -> None:
    market = crypto_book.market()
    nobody = crypto_load.derive_pm2.prepare({}, market, backends.load("numpy"))
    with pytest.raises(ValueError, match="accounts failed: "):
        crypto_load.margined(nobody, crypto_book.book(market, 3, 17))
