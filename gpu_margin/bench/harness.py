"""What runs workloads at sizes, contender by contender, and names what it leaves out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.bench import machine
from gpu_margin.bench.cases import Case, Size, Work, Workload, on_host
from gpu_margin.bench.joins import Skipped
from gpu_margin.bench.precision import FLOAT64, PRECISIONS, Precision, works_in
from gpu_margin.bench.request import LIMIT, PATIENCE, command_line, now
from gpu_margin.bench.result import WORKLOADS, BenchResult, Row
from gpu_margin.bench.timing import Plan, timed
from gpu_margin.failures import BackendUnavailable

# What a practitioner's code may take where it cannot do all the units: enough to tell its rate.
PART_BYTES = 2 << 30

Progress = Callable[[str, int, int], None]
Keep = Callable[[BenchResult], None]


def run_bench(
    workloads: Sequence[str],
    sizes: Sequence[Size],
    backends: Sequence[str | Backend],
    rounds: int = 5,
    progress: Progress | None = None,
    *,
    precisions: Sequence[str] = (FLOAT64.name,),
    patience: float = PATIENCE,
    limit: float = LIMIT,
    keep: Keep | None = None,
    command: str = "",
    created: str = "",
) -> BenchResult:
    """Time `workloads` (keys of `WORKLOADS`) at `sizes`, small ones first, on `backends`.

    `backends` are names ("auto", "all", or one of `gpu-margin devices`) or backends, `precisions`
    names of `PRECISIONS`; baselines are always float64. The rounds of one contender take about
    `patience` seconds at most, but for the first of them; a contender that would take more than
    `limit` seconds for a call, by its own rate at a smaller size, is skipped. `keep` is called
    with what there is so far, after every row. `command` and `created` (UTC, ISO format) are those
    of the result. Raises `ConfigError` for unknown backends.
    """
    report = progress or (lambda stage, done, total: None)
    keep = keep or (lambda result: None)
    devices, missing = _devices(backends)
    report("ceilings", 0, 1)
    devices, ceilings = _ceilings(devices, missing, rounds)
    report("ceilings", 1, 1)
    plan = Plan(devices, missing, ceilings, rounds, tuple(precisions), patience, limit)
    todo = list(_todo(workloads, sizes))
    result = replace(_empty(plan, command, created), cases=len(todo))
    keep(result)
    for workload, size in todo:
        for row in _reported(workload, size, plan, report):
            result = replace(result, rows=(*result.rows, row))
            keep(result)
        result = replace(result, done=result.done + 1)
        keep(result)
    if "a" in workloads and FLOAT64.name in precisions:
        report("memory of (a)", 0, 1)
        for figures in machine.memory(sizes, devices, lambda *what: _patience(plan, *what)):
            result = replace(result, memory=[*result.memory, figures])
            keep(result)
        report("memory of (a)", 1, 1)
    result = replace(result, finished=True)
    keep(result)
    return result


def _empty(plan: Plan, command: str, created: str) -> BenchResult:
    """The result before its first row."""
    return BenchResult(
        rows=(),
        ceilings=plan.ceilings,
        memory=[],
        backends={**{device.name: device.describe() for device in plan.devices}, **plan.missing},
        machine=machine.describe(),
        versions=machine.versions(),
        command=command or command_line(),
        created=created or now(),
        rounds=plan.rounds,
        precisions=plan.precisions,
        patience=plan.patience,
        limit=plan.limit,
    )


def _devices(wanted: Sequence[str | Backend]) -> tuple[tuple[Backend, ...], dict[str, str]]:
    """Backends to run, and why others cannot."""
    found: dict[str, Backend] = {}
    missing: dict[str, str] = {}
    for one in wanted:
        if not isinstance(one, str):
            found[one.name] = one
            continue
        for name in backends.backend_names() if one == "all" else [one]:
            try:
                device = backends.load(name)
                found[device.name] = device
            except BackendUnavailable as error:
                missing[name] = str(error)
    return tuple(found.values()), missing


def _ceilings(
    devices: Sequence[Backend], missing: dict[str, str], rounds: int
) -> tuple[tuple[Backend, ...], dict[str, dict[str, float]]]:
    """The devices that work, and their ceilings; why others do not is added to `missing`."""
    able, found = [], {"host": machine.host_ceilings(rounds)}
    for device in devices:
        try:
            if not on_host(device):
                found[device.name] = machine.device_ceilings(device, rounds)
            able.append(device)
        except Exception as error:
            missing[device.name] = f"cannot even copy an array ({_said(error)})"
    return tuple(able), found


def _todo(keys: Sequence[str], sizes: Sequence[Size]) -> Iterator[tuple[Workload, Size]]:
    """Workloads at sizes, from the least work to the most; what is alike for a workload once."""
    for key in keys:
        for workload in WORKLOADS[key]:
            alike = {workload.work(size).label: size for size in reversed(sizes)}
            for size in sorted(alike.values(), key=lambda size: workload.work(size).steps):
                yield workload, size


def _patience(plan: Plan, name: str, size: Size) -> str:
    """Why the memory of a contender is not measured at a size: one call would take too long."""
    (workload,) = WORKLOADS["a"]
    row = replace(_blank(workload, size), contender=name)
    expected = plan.pace.expect(row, workload.work(size))
    if expected is None or expected.seconds <= plan.patience:
        return ""
    return f"would take {expected.text}"


def _reported(workload: Workload, size: Size, plan: Plan, report: Progress) -> Iterator[Row]:
    """The rows of a case; progress counts contenders, of which a device has several rows."""
    stage = f"({workload.key}) {workload.work(size).label}"
    total = len(workload.practitioners) + len(plan.devices)
    done: dict[str, None] = {}
    report(stage, 0, total)
    for row in _bench_case(workload, size, plan):
        done[row.contender] = None
        report(stage, min(len(done), total), total)
        yield row
    report(stage, total, total)


@dataclass(frozen=True)
class _Job:
    """A case that was built, and what is asked of it; `blank` is a row that says nothing yet."""

    workload: Workload
    size: Size
    case: Case
    blank: Row
    plan: Plan
    precisions: tuple[Precision, ...]


def _bench_case(workload: Workload, size: Size, plan: Plan) -> Iterator[Row]:
    """Rows of one workload at one size; practitioners first, ratios to the first of them."""
    blank = _blank(workload, size)
    unknown = [name for name in plan.precisions if name not in workload.precisions]
    if unknown:
        only = f"no {', '.join(unknown)}: in {', '.join(workload.precisions)} only"
        yield replace(blank, contender="(all)", reason=only)
    precisions = tuple(PRECISIONS[n] for n in plan.precisions if n in workload.precisions)
    if not precisions:
        return
    for name, reason in plan.missing.items():
        yield replace(blank, contender=name, reason=reason)
    need = _need(workload.work(size).input_bytes, machine.free_bytes(), "host")
    if need:
        reason = f"would need {need}"
        for name in (*workload.practitioners, *(device.name for device in plan.devices)):
            yield replace(blank, contender=name, kind=_kind(workload, name), reason=reason)
        return
    try:
        case = workload.build(size)
    except Exception as error:
        yield replace(blank, contender="(all)", status="failed", reason=_said(error))
        return
    with closing(case):
        yield from _contenders(_Job(workload, size, case, blank, plan, precisions))


def _contenders(job: _Job) -> Iterator[Row]:
    baseline: Row | None = None
    for name in job.workload.practitioners:
        row = _practitioner(job, name)
        baseline = baseline or row
        yield _with_ratio(row, baseline)
    for device in job.plan.devices:
        for precision in job.precisions:
            for row in _backend(job, device, precision):
                yield _with_ratio(row, baseline)


def _blank(workload: Workload, size: Size) -> Row:
    """A row that says nothing yet, of a skipped backend."""
    work = workload.work(size)
    return Row(
        workload=workload.key,
        title=workload.title,
        size=work.label,
        accounts=size.accounts,
        positions=size.positions,
        scenarios=size.scenarios,
        contender="",
        kind="backend",
        status="skipped",
        unit=work.unit,
        units=work.units,
        case_units=work.units,
    )


def _kind(workload: Workload, name: str) -> Literal["practitioner", "backend"]:
    return "practitioner" if name in workload.practitioners else "backend"


def _need(needed: float, free: float, where: str) -> str:
    """What is needed and what there is, where that does not fit; or nothing."""
    if needed <= machine.USABLE * free:
        return ""
    return (
        f"about {needed / 2**30:.1f} GiB of {where} memory, {max(free, 0) / 2**30:.1f} GiB are free"
    )


def _practitioner(job: _Job, name: str) -> Row:
    """A practitioner's row: of all units, or of as many as fit."""
    blank = row = replace(job.blank, contender=name, kind="practitioner")
    work, plan = job.case.work, job.plan
    try:
        units = None
        if name not in job.workload.partial:
            units, note = _part(row, work, plan)
            row = replace(row, note=note)
        one = job.case.practitioner(name, units)
        row = replace(row, units=one.units)
        slow = plan.too_slow(row, work)
        if slow:
            raise Skipped(f"would take {slow.text}")
        return timed(job.case, one, row, work, plan)
    except Skipped as error:
        return replace(blank, reason=str(error))
    except Exception as error:
        return replace(row, status="failed", reason=_said(error))


def _part(row: Row, work: Work, plan: Plan) -> tuple[int, str]:
    """How many units a practitioner's code can do here, and why not all.

    A part tells its rate as well, for units do not depend on each other. Raises `Skipped` where
    there is no part that can be done.
    """
    free = machine.free_bytes()
    need, slow = _need(work.baseline_bytes, free, "host"), plan.too_slow(row, work)
    why = f"would need {need}" if need else f"would take {slow.text}" if slow else ""
    if not why:
        return work.units, ""
    share = min(PART_BYTES, machine.USABLE * free / 2) / work.baseline_bytes
    if slow:  # half of the limit, for it is a guess
        share = min(share, plan.limit / 2 / slow.seconds)
    together = work.together
    units = min(work.units, int(share * work.units)) // together * together if together else 0
    if not units:
        raise Skipped(why)
    return units, f"all {why}"


def _backend(job: _Job, device: Backend, precision: Precision) -> Iterator[Row]:
    """All variants of a backend in a precision, or why there are none."""
    row = replace(job.blank, contender=device.name, precision=precision.name)
    work, here = job.workload.work(job.size, precision), on_host(device)
    if not works_in(device, precision):
        yield replace(row, reason=f"does not work in {precision.name}")
        return
    # A library with arrays of its own copies them, on the host as well.
    free = machine.free_bytes() if here else device.free_bytes()
    needed = work.backend_bytes + (0 if device.xp is np else work.input_bytes)
    need = _need(needed, free, "host" if here else "device")
    if need:
        yield replace(row, reason=f"would need {need}")
        return
    try:
        for one in job.case.backend(device, precision):
            row = replace(row, variant=one.variant, units=one.units)
            slow = job.plan.too_slow(row, work)
            if slow:
                yield replace(row, reason=f"would take {slow.text}")
            else:
                yield timed(job.case, one, row, work, job.plan)
    except Exception as error:
        yield replace(row, status="failed", reason=_said(error))


def _with_ratio(row: Row, baseline: Row | None) -> Row:
    if baseline is None or row.units_per_second is None or baseline.units_per_second is None:
        return row
    return replace(row, ratio=baseline.units_per_second / row.units_per_second)


def _said(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]
