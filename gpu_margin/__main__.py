"""`python -m gpu_margin`: the command line."""

from __future__ import annotations

from gpu_margin.cli import main

main()
