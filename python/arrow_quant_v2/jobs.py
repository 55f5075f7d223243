"""Many models with one call: a list of jobs, at once on the core's one pool of threads."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from arrow_quant_v2.async_api import AsyncArrowQuantV2
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ArrowQuantError, ConfigurationError, ModelNotFoundError
from arrow_quant_v2.progress import ProgressCallback

# A run that calibrates holds a model and its second moments.
AT_ONCE = 4
_OWN_KEYS = ("model", "output", "mode", "overwrite")


@dataclasses.dataclass(frozen=True)
class Job:
    """One model to quantize. ``mode`` as for ArrowQuantV2, ``overwrite`` as for quantize_diffusion_model."""

    model: pathlib.Path
    output: pathlib.Path
    config: DiffusionQuantConfig
    mode: str = "diffusion"
    overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class JobOutcome:
    """The result dictionary of a job, or its error."""

    job: Job
    result: dict[str, Any] | None
    error: ArrowQuantError | None
    seconds: float


def load_jobs(
    path: str | os.PathLike[str], defaults: DiffusionQuantConfig | None = None, *, overwrite: bool = False
) -> list[Job]:
    """Read a YAML or JSON list of mappings with ``model`` and ``output``, which are relative to the working directory,
    and maybe ``mode``, ``overwrite``, and keys of the configuration.

    Args:
        defaults: what keys that a job leaves out are taken from; a job with deployment_profile takes that profile.

    Raises ConfigurationError, which names the job, before any work: no list, an unknown key, a bad value, two jobs with
    one output; ModelNotFoundError where there is no such file.
    """
    file = os.fspath(path)
    jobs = [_job(item, number, file, defaults, overwrite) for number, item in enumerate(_read_list(file), 1)]
    seen: dict[str, int] = {}
    for number, job in enumerate(jobs, 1):
        output = os.path.realpath(job.output)
        if output in seen:
            _refuse(file, number, f"its output {job.output} is that of job {seen[output]}", "Give each its own.")
        seen[output] = number
    return jobs


def _read_list(file: str) -> list[Any]:
    try:
        text = pathlib.Path(file).read_text("utf-8")
    except OSError as error:
        raise ModelNotFoundError(f"{file}: {error.strerror or error}", file=file) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file}: is not UTF-8 text", file=file) from error
    try:
        items = json.loads(text) if file.endswith(".json") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{file}: {error}", file=file) from error
    if not isinstance(items, list) or not items:
        raise ConfigurationError(f"{file}: is no list of jobs. Give mappings with model and output.", file=file)
    return items


def _refuse(file: str, number: int, problem: str, remedy: str = "") -> None:
    raise ConfigurationError.compose(f"job {number}: {problem}", file=file, remedy=remedy)


def _job(item: Any, number: int, file: str, defaults: DiffusionQuantConfig | None, overwrite: bool) -> Job:
    if not isinstance(item, Mapping) or not all(isinstance(key, str) for key in item):
        _refuse(file, number, f"is {item!r}, no mapping", "Give model and output.")
    for key in ("model", "output"):
        if not isinstance(item.get(key), str) or not item[key]:
            _refuse(file, number, f"{key} is missing or no text", "Give the path.")
    mode, own = item.get("mode", "diffusion"), item.get("overwrite", overwrite)
    if mode not in ("diffusion", "base"):
        _refuse(file, number, f"mode is {mode!r}", "Use diffusion or base.")
    if not isinstance(own, bool):
        _refuse(file, number, f"overwrite is {own!r}", "Use true or false.")
    options = {key: value for key, value in item.items() if key not in _OWN_KEYS}
    try:
        config = _config(options, defaults)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{file}: job {number}: {error}", code=error.code, file=file, remedy=error.remedy
        ) from error
    return Job(pathlib.Path(item["model"]), pathlib.Path(item["output"]), config, mode, own)


def _config(options: dict[str, Any], defaults: DiffusionQuantConfig | None) -> DiffusionQuantConfig:
    if defaults is None or "deployment_profile" in options:
        return DiffusionQuantConfig.from_dict(options)
    return defaults.with_overrides(options)


def run_jobs(
    jobs: Sequence[Job], at_once: int = AT_ONCE, progress_callback: ProgressCallback | None = None
) -> list[JobOutcome]:
    """Quantize all, ``at_once`` at the same time; an error ends its own job only.

    Args:
        progress_callback: called as (message, fraction of all jobs in [0, 1]).

    Returns one outcome for each job, in their order. KeyboardInterrupt stops all; what they have finished is kept for
    the same call again.
    """
    if at_once < 1:
        raise ConfigurationError(f"at_once is {at_once}. Give 1 or more.")
    return asyncio.run(_run_all(jobs, at_once, progress_callback))


async def _run_all(jobs: Sequence[Job], at_once: int, callback: ProgressCallback | None) -> list[JobOutcome]:
    places = asyncio.Semaphore(at_once)
    done = [0.0] * len(jobs)

    async def run(number: int) -> JobOutcome:
        def report(message: str, fraction: float) -> None:
            done[number] = fraction
            if callback is not None:
                callback(f"job {number + 1} of {len(jobs)}: {message}", sum(done) / len(jobs))

        async with places:
            outcome = await _run_one(jobs[number], report)
        report("done" if outcome.error is None else "failed", 1.0)
        return outcome

    return list(await asyncio.gather(*(run(number) for number in range(len(jobs)))))


async def _run_one(job: Job, report: ProgressCallback) -> JobOutcome:
    start = time.perf_counter()
    result: dict[str, Any] | None = None
    failure: ArrowQuantError | None = None
    try:
        result = await AsyncArrowQuantV2(job.mode).quantize_diffusion_model(
            job.model, job.output, job.config, progress_callback=report, overwrite=job.overwrite
        )
    except ArrowQuantError as error:
        failure = error
    except (MemoryError, OSError) as error:
        failure = ArrowQuantError(str(error) or "not enough memory", code="resource")
    return JobOutcome(job, result, failure, time.perf_counter() - start)
