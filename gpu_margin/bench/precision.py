"""Precisions that `gpu-margin bench` compares: what is stored how, and how far it may be off."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_margin.backend import Backend
from gpu_margin.failures import ConfigError


@dataclass(frozen=True)
class Precision:
    """Dtypes of quantities and of the matrix; sums have that of the quantities.

    `rtol` is the largest error as a share of gross; `gemm` names the ceiling of its operations.
    """

    name: str
    value: str
    matrix: str
    rtol: float
    gemm: str = "gemm_gflop_s"


FLOAT64 = Precision("float64", "float64", "float64", 1e-12)

# Rounding a profit to float32 costs 6e-8 of it, and the worst scenario's profits may be several
# times their mean, of which gross is the sum. Sums in float32 cost up to 6e-8 of the sum so far
# with every entry: 3e-6 for 50 of them, were all errors on one side.
PRECISIONS = {
    one.name: one
    for one in (
        FLOAT64,
        Precision("mixed", "float64", "float32", 1e-6),
        Precision("float32", "float32", "float32", 1e-5, "gemm_fp32_gflop_s"),
    )
}


def precisions(text: str) -> tuple[str, ...]:
    """Names from a comma-separated list; `ConfigError` where one is unknown."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise ConfigError(f"--precision {name!r}: choose some of {known}")
    return tuple(dict.fromkeys(names))


def works_in(device: Backend, precision: Precision) -> bool:
    """Whether the backend takes both dtypes."""
    return {precision.value, precision.matrix} <= set(device.dtypes)
