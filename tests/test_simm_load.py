"""The benchmark of SIMM measures, compares, and leaves a record."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import simm_load
import simm_ore

WORDS = ["--portfolios=20", "--growth=10,20", "--ore=3", "--rounds=1", "--backend=numpy"]


def test_everything_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simm_load.main([*WORDS, f"--out={tmp_path}"]) == 0
    (path,) = tmp_path.glob("simm-*.json")
    found = json.loads(path.read_text())
    assert str(tmp_path) not in path.read_text()
    assert found["command"].startswith("python benchmarks/simm_load.py --portfolios 20 ")
    assert {"machine", "versions", "created", "simm"} <= set(found)
    figures = {(one["scenario"], one["name"]): one for one in found["figures"]}
    for place in ("in memory", "from a file"):
        assert figures[f"{place}, 20 portfolios", "per CPU second"]["target"] in (11_000, 4_000)
    assert figures["memory from a file, 20 portfolios", "above the baseline"]["met"]
    assert figures["growth", "20 portfolios, to the size before"]["value"] > 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(found["figures"]) + 1


def test_without_ore_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> None:
        raise ImportError("no module named 'ORE'")

    monkeypatch.setattr(simm_ore, "load", absent)
    assert simm_load.main(WORDS) == 0
    shown = capsys.readouterr()
    assert "no ORE: pip install open-source-risk-engine" in shown.err
    assert "growth" in shown.out and "ORE" not in shown.out
