"""Both models on the same calls: the float model's own sampling, data, or calls that are given."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from arrow_quant_v2.calibration_data import DEFAULT_MAX_BAD_ROWS
from arrow_quant_v2.errors import ConfigurationError, UnsupportedModelError
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.torch.call_time import TimeFunction
from arrow_quant_v2.torch.collect import call_arguments
from arrow_quant_v2.torch.data_sources import DataSource, data_calls
from arrow_quant_v2.torch.evaluation.outputs import OutputErrors, TeacherForced
from arrow_quant_v2.torch.evaluation.pair import ModelPair, cannot_run, checked_count, held_out_seed, load_pair
from arrow_quant_v2.torch.synthetic import SelfSampling, run_sampler, unchanged

BATCH = 16
# Cosine that outputs need at every time where no other threshold is given.
DEFAULT_MIN_COSINE = 0.9
# Times at which the check compares outputs: steps of the model's own sampling, or parts of the times of data.
CHECK_STEPS = 10


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Where calls come from: ``data`` with its options as in DataSource, ``calls`` (each a mapping, a tuple or a
    tensor, with ``time_of`` where they do not tell their time), or with neither the model's own sampling."""

    data: Any = None
    columns: Mapping[str, str] | str | None = None
    split: str | None = None
    max_bad_rows: int = DEFAULT_MAX_BAD_ROWS
    calls: Iterable[Any] | None = None
    time_of: TimeFunction | None = None

    def __post_init__(self) -> None:
        if self.data is not None and self.calls is not None:
            raise ConfigurationError("both data and calls are given. Give one.")

    def source(self) -> DataSource:
        return DataSource(self.data, self.columns, self.split, self.max_bad_rows)


class Steps:
    """Reports each forward call of a run of ``total``."""

    def __init__(self, total: int, report: ProgressCallback | None) -> None:
        self._total, self._report, self._done = total, report, 0

    def next(self) -> None:
        if self._report is not None:
            self._report(f"call {self._done + 1} of {self._total}", self._done / self._total)
        self._done = min(self._done + 1, self._total)


def batches(count: int, size: int = BATCH) -> list[list[int]]:
    """Numbers of samples 0..count-1, ``size`` at a time."""
    return [list(range(begin, min(begin + size, count))) for begin in range(0, count, size)]


@torch.no_grad()
def check_forward(
    original: str | os.PathLike[str],
    quantized: str | os.PathLike[str],
    samples: int,
    min_cosine: float | None = None,
    inputs: Inputs | None = None,
    seed: int = 0,
    report: ProgressCallback | None = None,
    allow_remote_code: bool = False,
) -> dict[str, Any]:
    """Whether the quantized model as a whole answers as the float one, on samples that calibration has not seen.

    Args:
        samples: how many; of the model's own sampling CHECK_STEPS times of each.
        min_cosine: of the outputs at each time; default DEFAULT_MIN_COSINE.
        inputs: default the model's own sampling.
        report: (message, fraction) before each call.
        allow_remote_code: as for load_pair.

    Returns passed (min_cosine reaches threshold), threshold, samples, source, and what OutputErrors.figures tells.

    Raises ConfigurationError, and as load_pair; UnsupportedModelError where the model cannot be sampled.
    """
    inputs, threshold = inputs or Inputs(), DEFAULT_MIN_COSINE if min_cosine is None else min_cosine
    count, generator_seed = checked_count(samples, "forward_samples"), held_out_seed(seed)
    pair = load_pair(original, quantized, allow_remote_code=allow_remote_code)
    if inputs.data is None and inputs.calls is None:
        sampling = pair.sampling()
        stride = max(1, sampling.steps // CHECK_STEPS)
        errors, source = own_errors(pair, sampling, count, generator_seed, stride, report), "synthetic"
    else:
        errors, source = given_errors(pair, inputs, count, generator_seed, report)
    figures = errors.figures(CHECK_STEPS)
    passed = figures["min_cosine"] >= threshold
    return {"passed": passed, "threshold": threshold, "samples": errors.samples, "source": source, **figures}


def own_errors(
    pair: ModelPair, sampling: SelfSampling, count: int, seed: int, stride: int, report: ProgressCallback | None
) -> OutputErrors:
    """Errors along the float model's own trajectories, at every ``stride``-th step."""
    errors, parts = OutputErrors(), batches(count)
    steps = Steps(len(parts) * sampling.steps, report)
    for ids in parts:
        forced = TeacherForced(pair, errors, stride)
        run_sampler(sampling.sample(forced, ids, seed + ids[0], unchanged), steps.next)
    errors.samples = count
    return errors


def given_errors(
    pair: ModelPair, inputs: Inputs, count: int, seed: int, report: ProgressCallback | None
) -> tuple[OutputErrors, str]:
    """Errors on data or calls, of at most ``count`` samples (the last call is run as a whole); and their name."""
    calls, name = (inputs.calls, "calls") if inputs.calls is not None else _calls_of_data(pair, inputs, count, seed)
    errors = OutputErrors()
    forced = TeacherForced(pair, errors, time_of=inputs.time_of)
    for call in calls:
        args, kwargs = call_arguments(call)
        forced(*args, **kwargs)
        if report is not None:
            report(f"sample {errors.samples} of {count}", min(1.0, errors.samples / count))
        if errors.samples >= count:
            break
    if errors.samples == 0:
        raise ConfigurationError(f"{name}: there are no samples. Give at least one.")
    return errors, name


def _calls_of_data(pair: ModelPair, inputs: Inputs, count: int, seed: int) -> tuple[Iterable[Any], str]:
    try:
        found = data_calls(pair.reference, pair.path, inputs.source(), count, seed)
    except UnsupportedModelError as error:
        raise cannot_run(pair.path, error) from error
    return found.calls, found.name
