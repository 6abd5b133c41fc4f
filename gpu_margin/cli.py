"""The command line: arguments in, tables and exit codes out."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpu_margin import (
    audit_cli,
    calibrate_cli,
    console,
    crypto_cli,
    cure_cli,
    engine,
    export_cli,
    keys_cli,
    loading,
    serve_cli,
    simm_cli,
    span_cli,
    whatif_cli,
)
from gpu_margin import backend as backends
from gpu_margin.commands import (
    AccountId,
    AsJson,
    BackendName,
    ConfigFile,
    Exit,
    OneModel,
    Quiet,
    Results,
    Strict,
    complain,
    errors,
    print_json,
)
from gpu_margin.explain import explain as explain_account
from gpu_margin.failures import BackendUnavailable, join_failures
from gpu_margin.io.outputs import check_folder
from gpu_margin.result import Run
from gpu_margin.saving import save

if TYPE_CHECKING:
    from gpu_margin.bench import Ended


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 done with failed rows (with --strict) or a wrong answer in "
    "bench, 2 bad usage or configuration, 3 nothing computed.",
)

app.add_typer(calibrate_cli.app)
app.command()(whatif_cli.whatif)
app.command()(cure_cli.cure)
app.command()(simm_cli.simm)
app.add_typer(crypto_cli.crypto_app)
app.add_typer(span_cli.span_app)
app.command()(export_cli.export_state)
app.command()(serve_cli.serve)
app.add_typer(keys_cli.keys_app)
app.add_typer(audit_cli.audit_app)


def main() -> None:
    """Entry point of the command `gpu-margin`."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        console.say(f"gpu-margin {version('gpu-margin')}")
        raise typer.Exit


@app.callback()
def _gpu_margin(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Portfolio margin of whole exchanges, on GPUs and CPUs."""


@app.command()
def run(
    config: ConfigFile,
    out: Annotated[Path, typer.Option(help="Folder for the results.", metavar="DIR")],
    backend: BackendName = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the results in DIR.")
    ] = False,
    strict: Strict = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compute the margin of every account and write tables and a report.

    DIR gets margins, components, sets, groups, failures (Parquet), manifest.json, report.html.
    """
    with errors():
        check_folder(out, overwrite)
        finished = _run(config, backend, quiet or as_json)
        finished = save(finished, out, overwrite=True)
    _show_run(finished, out, quiet, as_json)
    raise typer.Exit(_exit_code(finished, strict))


@app.command()
def validate(
    config: ConfigFile, strict: Strict = False, quiet: Quiet = False, as_json: AsJson = False
) -> None:
    """Check the configuration and every row of its inputs; compute nothing."""
    with errors():
        loaded = loading.load(config)
        failures = join_failures([loaded.failures, *(one.failures for one in loaded.on_files)])
    counts = {**loaded.counts, "failures": len(failures)}
    if as_json:
        files = {one.model.name: one.inputs.files for one in loaded.on_files}
        read = {"inputs": loaded.inputs, **({"on_files": files} if files else {})}
        print_json({"counts": counts, **read, "failures": failures.to_dicts()})
    elif not quiet:
        console.show_counts(counts)
        console.show_failures(failures)
    if not (loaded.computable or any(one.inputs.computable for one in loaded.on_files)):
        raise typer.Exit(Exit.NOTHING_COMPUTED)
    raise typer.Exit(Exit.FAILED_ROWS if strict and len(failures) else Exit.DONE)


@app.command()
def explain(
    folder: Results,
    account: AccountId,
    model: OneModel = None,
    as_json: AsJson = False,
) -> None:
    """Show why an account requires what it requires.

    Positions with their contributions, which add up to the requirement; product groups; the
    worst scenario. The inputs are read again and must not have changed since the run.
    """
    with errors():
        explanations = explain_account(folder, account, model)
    if as_json:
        print_json([console.explanation_dict(explanation) for explanation in explanations])
        return
    for explanation in explanations:
        console.show_explanation(explanation)


@app.command()
def devices(as_json: AsJson = False) -> None:
    """Say what each backend finds on this machine."""
    found = [_describe(name) for name in backends.backend_names()]
    if as_json:
        print_json(found)
    else:
        console.show_devices(found)


@app.command()
def demo(
    accounts: Annotated[int, typer.Option(min=1, help="How many accounts.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of all random choices.")] = 7,
    out: Annotated[Path, typer.Option(help="Folder for inputs and results.", metavar="DIR")] = Path(
        "gpu-margin-demo"
    ),
    backend: BackendName = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Build an exchange on real daily histories and run it.

    Futures and option chains on the S&P 500, the NASDAQ and WTI oil, accounts of recognisable
    kinds, valued on 2018-12-31. The inputs and config.toml are in DIR, the results in
    DIR/results. Needs the extra demo.
    """
    from gpu_margin import demo as exchange

    with errors():
        if not (out / "config.toml").exists():
            check_folder(out, overwrite=False)
        config = exchange.write(exchange.build(accounts, seed), out)
        results = out / "results"
        finished = save(_run(config, backend, quiet or as_json), results, overwrite=True)
    _show_run(finished, results, quiet, as_json)
    raise typer.Exit(_exit_code(finished, strict=False))


@app.command()
def bench(
    workload: Annotated[
        str,
        typer.Option(
            help="all, or some of a (simulation margin), b (covariance margin), "
            "c (repricing), d (end to end), comma-separated."
        ),
    ] = "all",
    size: Annotated[
        str,
        typer.Option(
            help="laptop, desk, exchange or ACCOUNTSxPOSITIONSxSCENARIOS, comma-separated."
        ),
    ] = "laptop",
    backend: Annotated[
        str, typer.Option(help="auto, all, or names from [bold]gpu-margin devices[/].")
    ] = "all",
    precision: Annotated[
        str,
        typer.Option(
            help="float64, mixed (a float32 matrix, float64 sums) or float32, comma-separated; "
            "of a, the others are float64 only."
        ),
    ] = "float64",
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; the best counts.")] = 5,
    patience: Annotated[
        float,
        typer.Option(
            min=0,
            help="What the rounds of one contender may take; one is always done.",
            metavar="SECONDS",
        ),
    ] = 120.0,
    limit: Annotated[
        float,
        typer.Option(
            min=0,
            help="What one call may take: what was too slow for that at a smaller size of the "
            "same run is skipped, a baseline done in part.",
            metavar="SECONDS",
        ),
    ] = 600.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the figures and plots.", metavar="DIR")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Time the backends beside what a practitioner would write and what the machine can do.

    Every answer is checked before its time counts; a wrong one makes the exit code 1. DIR gets
    bench-DATE-PROCESSOR.json and .html, written anew after every size of a workload. Ctrl-C (exit
    code 130) and SIGTERM (143) end the run: what was measured is written and shown.
    """
    from gpu_margin import bench as harness

    with errors():
        asked = harness.Request(
            workloads=harness.workloads(workload),
            sizes=harness.sizes(size),
            backends=harness.backend_choice(backend),
            rounds=rounds,
            precisions=harness.precisions(precision),
            patience=patience,
            limit=limit,
        )
        if out:
            check_folder(out, overwrite=True)
        with console.progress_bars(quiet or as_json) as progress:
            ended = harness.run_apart(asked, out, progress)
    _show_bench(ended, quiet, as_json)
    wrong = ended.result.wrong if ended.result else 0
    if wrong:
        complain(f"{wrong} wrong answers: see the remarks")
    raise typer.Exit(ended.code or (Exit.FAILED_ROWS if wrong else Exit.DONE))


def _show_bench(ended: Ended, quiet: bool, as_json: bool) -> None:
    """What was measured, and where the run did not come to its end, that."""
    from gpu_margin import bench as harness

    result = ended.result
    if result is None:
        complain("stopped before anything was measured")
        return
    if as_json:
        print_json(result.to_dict())
    elif not quiet:
        harness.show(result)
        for path in ended.written:
            console.say(str(path))
    if not result.finished:
        complain(f"{result.state}; the rest was not measured")


def _run(config: Path, backend: str, silent: bool) -> Run:
    with console.progress_bars(silent) as progress:
        return engine.run(config, backend=backend, progress=progress)


def _show_run(finished: Run, folder: Path, quiet: bool, as_json: bool) -> None:
    if as_json:
        print_json({"folder": str(folder), **finished.manifest})
    elif not quiet:
        console.show_totals(finished)
        console.show_lost_backends(finished)
        console.show_failures(finished.failures)
        console.say(f"Results in {folder}, report: {folder / 'report.html'}")


def _exit_code(finished: Run, strict: bool) -> Exit:
    if finished.margins["requirement"].is_null().all():
        complain("nothing computed: no account has a good position; see the failures")
        return Exit.NOTHING_COMPUTED
    return Exit.FAILED_ROWS if strict and len(finished.failures) else Exit.DONE


def _describe(name: str) -> dict[str, Any]:
    try:
        found = "; ".join(shard.describe() for shard in backends.load(name).shards())
        return {"name": name, "available": True, "device": found}
    except BackendUnavailable as error:
        return {"name": name, "available": False, "device": str(error)}
