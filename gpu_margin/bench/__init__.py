"""Benchmarks: every backend beside what a practitioner would write and what the machine can do.

A time counts only with a right answer: each contender is checked against the workload's reference
before and after its rounds. What does not fit the memory, or cannot run here, is named with the
reason. Compare ratios within one run; seconds of different machines say little.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.bench import machine
from gpu_margin.bench.cases import (
    Case,
    Contender,
    Size,
    Work,
    Workload,
    floor,
    on_host,
    sizes,
)
from gpu_margin.bench.joins import Skipped
from gpu_margin.bench.page import page, show
from gpu_margin.bench.result import WORKLOADS, BenchResult, Row, workloads
from gpu_margin.failures import BackendUnavailable
from gpu_margin.io.outputs import write_atomically

__all__ = [
    "WORKLOADS",
    "BenchResult",
    "Row",
    "Skipped",
    "complaint",
    "contender",
    "contender_names",
    "run_bench",
    "show",
    "sizes",
    "workloads",
    "write",
]

# Largest error as a share of gross, by the dtype of the inputs.
RTOL = {"float64": 1e-12, "float32": 1e-5}
# Where one round takes long, fewer are done: seconds for the rounds of one contender.
PATIENCE = 120.0

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Plan:
    """What one run of the harness carries along."""

    devices: tuple[Backend, ...]
    missing: dict[str, str]
    ceilings: dict[str, dict[str, float]]
    rounds: int
    dtype: str


def run_bench(
    workloads: Sequence[str],
    sizes: Sequence[Size],
    backends: Sequence[str | Backend],
    rounds: int = 5,
    progress: Progress | None = None,
    *,
    dtype: str = "float64",
) -> BenchResult:
    """Time `workloads` (keys of `WORKLOADS`) at `sizes` on `backends`.

    `backends` are names ("auto", "all", or one of `gpu-margin devices`) or backends. `dtype` is
    that of the inputs; a backend that does not list another than float64 in its `dtypes` is
    skipped. Raises `ConfigError` for unknown names.
    """
    report = progress or (lambda stage, done, total: None)
    devices, missing = _devices(backends)
    report("ceilings", 0, 1)
    plan = _Plan(devices, missing, _ceilings(devices, rounds), rounds, dtype)
    report("ceilings", 1, 1)
    todo = list(_todo(workloads, sizes))
    rows: list[Row] = []
    for workload, size in todo:
        stage = f"({workload.key}) {workload.work(size).label}"
        total = len(workload.practitioners) + len(devices)
        report(stage, 0, total)
        done: dict[str, None] = {}  # contenders, in order; a device has several rows
        for row in _bench_case(workload, size, plan):
            rows.append(row)
            done[row.contender] = None
            report(stage, min(len(done), total), total)
        report(stage, total, total)
    return BenchResult(
        rows=tuple(rows),
        ceilings=plan.ceilings,
        memory=machine.memory(sizes, devices) if "a" in workloads and dtype == "float64" else [],
        backends={**{device.name: device.describe() for device in devices}, **missing},
        machine=machine.describe(),
        versions=machine.versions(),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dtype=dtype,
        rounds=rounds,
    )


def write(result: BenchResult, folder: Path) -> tuple[Path, Path]:
    """Write bench-<date>-<processor>.json and .html into the folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    moment = datetime.fromisoformat(result.created).strftime("%Y-%m-%dT%H%M%S")
    slug = re.sub(r"[^a-z0-9]+", "-", result.machine["processor"].lower()).strip("-")
    stem = f"bench-{moment}-{slug}"
    figures, picture = folder / f"{stem}.json", folder / f"{stem}.html"
    _write_text(figures, json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n")
    _write_text(picture, page(result))
    return figures, picture


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda place: place.write_text(text, encoding="utf-8"))


def contender(case: Case, name: str) -> Contender:
    """The case's contender of that name, for `benchmarks/`; raises `Skipped` if it cannot run."""
    if name not in backends.backend_names():
        return case.practitioner(name)
    try:
        variants = case.backend(backends.load(name))
    except BackendUnavailable as error:
        raise Skipped(str(error)) from error
    return next((one for one in variants if one.variant == "resident"), variants[0])


def complaint(case: Case, one: Contender, result: Any, dtype: str = "float64") -> str:
    """What is wrong with what `one.run` returned, or nothing."""
    return _check(case, one, result, dtype)[1]


def contender_names(workload: Workload) -> list[str]:
    """Practitioners and backends, able to run or not."""
    return [*workload.practitioners, *backends.backend_names()]


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


def _ceilings(devices: Sequence[Backend], rounds: int) -> dict[str, dict[str, float]]:
    found = {"host": machine.host_ceilings(rounds)}
    for device in devices:
        if not on_host(device):
            found[device.name] = machine.device_ceilings(device, rounds)
    return found


def _todo(keys: Sequence[str], sizes: Sequence[Size]) -> Iterator[tuple[Workload, Size]]:
    """Workloads at sizes; sizes that are alike for a workload once."""
    for key in keys:
        for workload in WORKLOADS[key]:
            seen = set()
            for size in sizes:
                label = workload.work(size).label
                if label not in seen:
                    seen.add(label)
                    yield workload, size


def _bench_case(workload: Workload, size: Size, plan: _Plan) -> Iterator[Row]:
    """Rows of one workload at one size; practitioners first, ratios to the first of them."""
    blank = _blank(workload, size)
    for name, reason in plan.missing.items():
        yield replace(blank, contender=name, reason=reason)
    work, free = workload.work(size), machine.free_bytes()
    reason = _too_large(work.input_bytes, free, "host")
    if reason:
        for name in (*workload.practitioners, *(device.name for device in plan.devices)):
            yield replace(blank, contender=name, kind=_kind(workload, name), reason=reason)
        return
    try:
        case = workload.build(size, plan.dtype)
    except Exception as error:
        yield replace(blank, contender="(all)", status="failed", reason=_said(error))
        return
    with closing(case):
        baseline: Row | None = None
        for name in workload.practitioners:
            needed = 0.0 if name in workload.partial else work.baseline_bytes
            row = _practitioner(case, replace(blank, contender=name), needed, plan)
            baseline = baseline or row
            yield _with_ratio(row, baseline)
        for device in plan.devices:
            for row in _backend(case, replace(blank, contender=device.name), device, plan):
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


def _too_large(needed: float, free: float, where: str) -> str:
    """Why an estimate does not fit, or nothing."""
    if needed <= machine.USABLE * free:
        return ""
    return (
        f"too large: needs about {needed / 2**30:.1f} GiB of {where} memory, "
        f"{free / 2**30:.1f} GiB are free"
    )


def _practitioner(case: Case, blank: Row, needed: float, plan: _Plan) -> Row:
    blank = replace(blank, kind="practitioner")
    try:
        reason = _too_large(needed, machine.free_bytes(), "host")
        if reason:
            raise Skipped(reason)
        return _timed(case, case.practitioner(blank.contender), blank, plan)
    except Skipped as error:
        return replace(blank, reason=str(error))
    except Exception as error:
        return replace(blank, status="failed", reason=_said(error))


def _backend(case: Case, blank: Row, device: Backend, plan: _Plan) -> Iterator[Row]:
    """All variants of a backend, or why there are none."""
    work, here = case.work, on_host(device)
    if plan.dtype not in getattr(device, "dtypes", ("float64",)):
        yield replace(blank, reason=f"does not work in {plan.dtype}")
        return
    # A library with arrays of its own copies them, on the host as well.
    free = machine.free_bytes() if here else device.free_bytes()
    needed = work.backend_bytes + (0 if device.xp is np else work.input_bytes)
    reason = _too_large(needed, free, "host" if here else "device")
    if reason:
        yield replace(blank, reason=reason)
        return
    try:
        for one in case.backend(device):
            blank = replace(blank, variant=one.variant)
            yield _timed(case, one, blank, plan)
    except Exception as error:
        yield replace(blank, status="failed", reason=_said(error))


def _timed(case: Case, one: Contender, blank: Row, plan: _Plan) -> Row:
    """Warm up, check, time, check again."""
    row = replace(blank, units=one.units)
    start = time.perf_counter()
    result = one.run()
    warm_up = time.perf_counter() - start
    error, wrong = _check(case, one, result, plan.dtype)
    times: list[tuple[float, float]] = []
    rounds = max(1, min(plan.rounds, int(PATIENCE // max(warm_up, 1e-9))))
    while not wrong and len(times) < rounds:
        result = None  # let go of the memory before the next round
        cpu, start = time.process_time(), time.perf_counter()
        result = one.run()
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    if not wrong:
        last, wrong = _check(case, one, result, plan.dtype)
        error = max(error, last)
    if wrong:
        # JSON has no infinity.
        return replace(row, status="wrong", reason=wrong, error=_finite(error))
    return _figures(replace(row, status="ok", error=error), case.work, times, plan)


def _check(case: Case, one: Contender, result: Any, dtype: str) -> tuple[float, str]:
    """The largest error as a share of gross, and what is wrong."""
    asked = one.gives_worst and dtype == "float64"
    return case.reference.complaint(one.answer(result), one.units, RTOL[dtype], asked)


def _figures(row: Row, work: Work, times: list[tuple[float, float]], plan: _Plan) -> Row:
    """The row with all that follows from its times."""
    seconds, cpu_seconds = min(times)
    share = row.units / work.units
    ceiling = plan.ceilings.get(row.contender, plan.ceilings["host"])
    gb_s = share * work.gathered_bytes / seconds / 1e9
    return replace(
        row,
        rounds=tuple(wall for wall, _ in times),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        units_per_second=row.units / seconds,
        units_per_cpu_second=row.units / cpu_seconds if cpu_seconds > 0 else None,
        gb_s=gb_s,
        copy_share=gb_s / ceiling["copy_gb_s"],
        floor=share * floor(work, ceiling),
    )


def _with_ratio(row: Row, baseline: Row | None) -> Row:
    if baseline is None or row.units_per_second is None or baseline.units_per_second is None:
        return row
    return replace(row, ratio=baseline.units_per_second / row.units_per_second)


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None


def _said(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]
