"""ISDA SIMM and Schedule IM: margins of uncleared derivatives from their sensitivities."""

from gpu_margin.models.simm.rulebook import (
    CURRENCY,
    FILES,
    Inputs,
    Parameters,
    check,
    load,
    margin,
)

__all__ = ["CURRENCY", "FILES", "Inputs", "Parameters", "check", "load", "margin"]
