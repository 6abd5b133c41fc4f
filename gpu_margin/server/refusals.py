"""What is wrong with questions about a book, as problems and as faults of one of many."""

from __future__ import annotations

from gpu_margin.living.asking import Asked
from gpu_margin.server.messages import FailedWhatIf, Fault
from gpu_margin.server.problems import Problem


def unknown_account(account_id: str) -> Problem:
    """404."""
    return Problem(
        404,
        "unknown-account",
        f"there is no account {account_id!r}",
        field="account_id",
        way_out="correct the id; /v1/accounts?prefix= finds ids",
    )


def no_gate() -> Problem:
    """409."""
    return Problem(
        409,
        "no-gate",
        "this server judges no orders: its configuration has no [gate]",
        way_out="add [gate] with a model and stale_seconds, and restart",
    )


def fault_of(found: Asked, place: int, lost: bool) -> Fault | None:
    """What is wrong with a what-if, None where nothing is; `lost`: its account has no good row."""
    error = found.errors.get(place)
    if error is not None:
        field, value, reason = error
        what, _, way_out = reason.partition(": ")
        status = 404 if field == "account_id" else 422
        return Fault(status, f"{what}: {value!r}", field, way_out or None)
    if lost:
        return Fault(
            422,
            "the account has no good position row: its requirement is not known",
            "account_id",
            "mend its rows in the inputs",
        )
    return None


def table_fault(found: Asked, place: int) -> str | None:
    """The same in a line."""
    fault = fault_of(found, place, bool(found.lost[place]))
    return None if fault is None else f"{fault.field}: {fault.detail}"


def not_finite(model: str) -> Fault:
    """422: a requirement beyond all numbers."""
    return Fault(
        422,
        f"{model}: the requirement is not finite: quantities or prices are too large",
        "positions",
        "ask for less",
    )


def as_problem(failed: FailedWhatIf) -> Problem:
    """The problem with a single what-if."""
    fault = failed.problem
    kind = "unknown-account" if fault.status == 404 else "invalid"
    return Problem(fault.status, kind, fault.detail, field=fault.field, way_out=fault.way_out)
