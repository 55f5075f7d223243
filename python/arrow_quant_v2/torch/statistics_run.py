"""Run samples through models, in as many passes as memory asks for, and keep the statistics of their layers."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.calibration import time_boundaries
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.torch.call_time import TimeFunction
from arrow_quant_v2.torch.collect import ActivationCollector
from arrow_quant_v2.torch.passes import LayerKey, PartsFile, plan_passes, quantize_in_place

# Runs the samples under the collectors, with the pass's part of the progress; how many samples there were.
Drive = Callable[[Sequence[ActivationCollector], ProgressCallback | None], int]

# With time_grouping "auto", statistics are kept for so many groups for each that may be made of them.
FINER_GROUPS = 4
MOST_GROUPS = 100


@dataclasses.dataclass(frozen=True)
class Collected:
    """Statistics and the facts that go into their file. ``parts``: the file that they are in already, if any."""

    statistics: Any
    facts: dict[str, Any]
    description: str
    parts: PartsFile | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        if self.parts is not None:
            self.parts.save(path)
        else:
            self.statistics.save(os.fspath(path), json.dumps(self.facts))


class StatisticsRun:
    """Statistics for the layers of one or more models that a run of quantization quantizes.

    Args:
        models: by component; "" for a model that is no pipeline.
        bits: of every layer that is quantized.
        time_span: times lie in [0, time_span].
        time_of, mask_token_id: see ActivationCollector.
        modality: of the model, "" where it is not known: earlier layers are quantized as a run would do it.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        bits: Mapping[LayerKey, int],
        time_span: float,
        config: DiffusionQuantConfig,
        time_of: TimeFunction | None = None,
        mask_token_id: int | None = None,
        modality: str = "",
    ) -> None:
        self.boundaries = seen_boundaries(time_span, config)
        self._models = models
        self._bits = bits
        self._config = config
        self._modality = modality
        # Of the models, with the layers of earlier stages quantized; None: nothing is corrected.
        self._twins: dict[str, nn.Module] | None = None
        self._options: dict[str, Any] = {"time_of": time_of, "mask_token_id": mask_token_id}
        self._plan = plan_passes(models, set(bits), len(self.boundaries) - 1, config)
        self._reached: set[LayerKey] = set()
        self._statistics: Any = None
        self._parts: PartsFile | None = None

    @property
    def passes(self) -> int:
        return len(self._plan.layers)

    def run(self, drive: Drive, progress: ProgressCallback | None) -> int:
        """Collect the layers of one pass after the other; the samples of one."""
        count = 0
        for number, layers in enumerate(self._plan.layers):
            collectors = self._collectors(layers)
            with contextlib.ExitStack() as stack, torch.inference_mode():
                for collector in collectors:
                    stack.enter_context(collector)
                count = drive(collectors, _part_of(progress, number, self.passes))
            self._reached |= {(c.component, name) for c in collectors for name in c.reached}
            self._statistics = collectors[0].statistics
            if self.passes > 1:
                self._finish_pass(last=number + 1 == self.passes)
        return count

    def _finish_pass(self, last: bool) -> None:
        if self._parts is None:
            self._parts = PartsFile()
        self._parts.append(self._statistics)
        if last:
            return
        models = self._models
        if self._config.calibration_stages > 1:
            models = self._twins = self._twins or {name: copy.deepcopy(model) for name, model in models.items()}
        quantize_in_place(models, self._statistics, self._bits, self._config, self._modality)

    def _collectors(self, layers: set[LayerKey]) -> list[ActivationCollector]:
        """One for each model, with statistics in common."""
        found: list[ActivationCollector] = []
        for component, model in self._models.items():
            found.append(
                ActivationCollector(
                    model,
                    self.boundaries,
                    layers={name for key, name in layers if key == component},
                    component=component,
                    keep_groups=self._plan.keep_groups,
                    seed=self._config.seed,
                    num_threads=self._config.num_threads,
                    statistics=found[0].statistics if found else None,
                    twin=self._twins[component] if self._twins else None,
                    **self._options,
                )
            )
        return found

    def collected(self, facts: dict[str, Any], sensitivity: list[float]) -> Collected:
        """What was collected, with ``facts``: kind, model_fingerprint, samples, description."""
        if self.passes > 1:
            note = (
                f"{facts['description']} in {self.passes} passes, each after the layers of those before were quantized"
            )
            note += " beside the float model" if self._twins else ""
            facts = {**facts, "description": note}
        unreached = sorted(name if not component else f"{component}.{name}" for component, name in self._unreached())
        stages = self._config.calibration_stages
        facts = {**facts, "passes": self.passes, "stages": stages, "unreached": unreached}
        if self._parts is not None:
            statistics = self._parts.close(json.dumps(facts), sensitivity)
            return Collected(statistics, facts, facts["description"], self._parts)
        if sensitivity:
            self._statistics.set_sensitivity(sensitivity)
        return Collected(self._statistics, facts, facts["description"])

    def _unreached(self) -> set[LayerKey]:
        return set(self._bits) - self._reached


def seen_boundaries(time_span: float, config: DiffusionQuantConfig) -> list[float]:
    """The time groups that statistics are kept for: those of the configuration, or finer ones to choose cuts from."""
    groups = config.num_time_groups
    if config.time_grouping == "auto":
        groups = min(FINER_GROUPS * groups, MOST_GROUPS)
    return time_boundaries(time_span, groups, int(time_span) if time_span > 1 else 0)


def _part_of(progress: ProgressCallback | None, number: int, count: int) -> ProgressCallback | None:
    if progress is None or count == 1:
        return progress
    return lambda message, fraction: progress(f"{message}, pass {number + 1} of {count}", (number + fraction) / count)
