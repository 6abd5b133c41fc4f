"""gpu-margin: portfolio margin of whole exchanges, on GPUs and CPUs.

`run(config)` does a whole recalculation; see the README for five lines that use it.
"""

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

__all__ = [
    "BackendUnavailable",
    "ConfigError",
    "Failure",
    "GpuMarginError",
    "InputError",
    "Run",
    "run",
    "save",
]
