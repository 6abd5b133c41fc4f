"""gpu-margin: portfolio margin of whole exchanges, on GPUs and CPUs.

`run(config)` does a whole recalculation, `simm(crif)` computes ISDA SIMM, `crypto(rulebook, feeds,
positions)` the portfolio margin of a crypto venue, `span(file, positions)` SPAN margin by an
exchange's risk parameter file; see the README for a few lines that use them.
"""

from gpu_margin.crypto_run import CryptoRun, crypto
from gpu_margin.engine import run
from gpu_margin.failures import (
    BackendUnavailable,
    ConfigError,
    Failure,
    GpuMarginError,
    InputError,
)
from gpu_margin.result import Run
from gpu_margin.saving import save
from gpu_margin.simm_run import SimmRun, simm
from gpu_margin.span_run import SpanRun, span

__all__ = [
    "BackendUnavailable",
    "ConfigError",
    "CryptoRun",
    "Failure",
    "GpuMarginError",
    "InputError",
    "Run",
    "SimmRun",
    "SpanRun",
    "crypto",
    "run",
    "save",
    "simm",
    "span",
]
