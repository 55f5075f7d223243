"""quantize --jobs: what is printed and how it ends."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import typer
from rich.console import Console

from arrow_quant_v2.cli.exit_codes import exit_code_of
from arrow_quant_v2.cli.progress import progress_reporter
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.jobs import JobOutcome, load_jobs, run_jobs


def quantize_jobs(
    file: pathlib.Path, defaults: DiffusionQuantConfig, at_once: int, overwrite: bool, as_json: bool, out: Console
) -> None:
    """Run the jobs of a file, print one line (or JSON object) for each, and exit with the largest code of them."""
    jobs = load_jobs(file, defaults, overwrite=overwrite)
    with progress_reporter(quiet=as_json) as report:
        outcomes = run_jobs(jobs, at_once, report)
    failed = sum(outcome.error is not None for outcome in outcomes)
    if as_json:
        typer.echo(json.dumps({"jobs": [_as_json(outcome) for outcome in outcomes], "failed": failed}))
    else:
        for outcome in outcomes:
            out.print(_line(outcome), soft_wrap=True)
        out.print(f"{len(outcomes) - failed} of {len(outcomes)} jobs done, {failed} failed")
    code = max(_exit_code(outcome) for outcome in outcomes)
    if code:
        raise typer.Exit(code)


def _exit_code(outcome: JobOutcome) -> int:
    if outcome.error is not None:
        return exit_code_of(outcome.error)
    assert outcome.result is not None
    return int(outcome.job.config.strict and outcome.result["layers_fallen_back"] > 0)


def _as_json(outcome: JobOutcome) -> dict[str, Any]:
    error = outcome.error
    return {
        "model": str(outcome.job.model),
        "output": str(outcome.job.output),
        "seconds": outcome.seconds,
        "result": outcome.result,
        "error": None if error is None else error.as_dict(),
    }


def _line(outcome: JobOutcome) -> str:
    head = f"{outcome.job.model} -> {outcome.job.output}"
    if outcome.result is None:
        return f"{head}: error: {outcome.error}"
    result = outcome.result
    warnings = f", {len(result['warnings'])} warnings" if result["warnings"] else ""
    return (
        f"{head}: {result['source_size_mb']:.2f} MB -> {result['model_size_mb']:.2f} MB, "
        f"{result['bits_per_weight']:.2f} bits a weight, {result['layers_fallen_back']} of {len(result['layers'])} "
        f"layers fell back{warnings}; {outcome.seconds:.1f} s"
    )
