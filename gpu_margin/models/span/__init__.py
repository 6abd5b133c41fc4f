"""SPAN: scan risk of risk arrays, spreads within and between combined commodities."""

from gpu_margin.models.span.rulebook import (
    CURRENCY,
    FILES,
    READ,
    Inputs,
    Parameters,
    check,
    load,
    margin,
)

__all__ = ["CURRENCY", "FILES", "READ", "Inputs", "Parameters", "check", "load", "margin"]
