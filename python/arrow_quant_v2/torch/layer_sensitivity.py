"""How much of an error in one layer's output arrives in the output of the model."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.layer import quantize_layer
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.torch.calibrate import load_float_model
from arrow_quant_v2.torch.evaluation.outputs import root_probabilities
from arrow_quant_v2.torch.synthetic import SelfSampling, output_tensor, run_sampler, self_sampling, unchanged
from arrow_quant_v2.torch.unfold import MEASURED, TRANSPOSED

# The width whose errors are put into the layers: small enough to be seen, large enough to add up.
PROBE_BITS = 3
SAMPLES = 1
# Steps of the model's own sampling, evenly over it.
CALLS = 10

# The weight that a module is tried with.
Probe = Callable[[nn.Module], torch.Tensor]
Call = tuple[tuple[Any, ...], dict[str, Any]]


def sensitivity_of_layers(
    model_path: str | os.PathLike[str],
    statistics: Any,
    layers: Collection[str],
    config: DiffusionQuantConfig,
    progress: ProgressCallback | None = None,
) -> dict[str, float]:
    """measure_layer_sensitivity of the model in a folder, with the errors that rounding with ``statistics`` makes.

    Raises UnsupportedModelError, MetadataError, ModelNotFoundError, ShapeMismatchError where it cannot be built or
    sampled.
    """
    model = load_float_model(model_path, config.allow_remote_code)
    sampling = self_sampling(model, pathlib.Path(model_path))
    modules = dict(model.named_modules())
    inputs = {name: numbers for (component, name), numbers in statistics.layers() if not component and name in layers}
    probes: dict[str, Probe] = {}
    for name, numbers in inputs.items():
        if isinstance(modules.get(name.removesuffix(".weight")), MEASURED):
            probes[name] = _rounding(statistics, numbers, config)
    return measure_layer_sensitivity(model, sampling, probes, config.seed, progress)


def _rounding(statistics: Any, numbers: list[int], config: DiffusionQuantConfig) -> Probe:
    def rounded(module: Any) -> torch.Tensor:
        weight = module.weight.movedim(1, 0) if isinstance(module, TRANSPOSED) else module.weight
        parts = [
            torch.from_numpy(
                quantize_layer(
                    part.contiguous().numpy(), statistics.input(number).second_moment(), PROBE_BITS, config.group_size,
                    rounds=0, dampening=config.dampening, num_threads=config.num_threads,
                ).dequantize()
            )
            for part, number in zip(weight.float().chunk(len(numbers)), numbers, strict=True)
        ]  # fmt: skip
        values = torch.cat(parts)
        return values.movedim(0, 1) if isinstance(module, TRANSPOSED) else values

    return rounded


@torch.no_grad()
def measure_layer_sensitivity(
    model: nn.Module,
    sampling: SelfSampling,
    probes: dict[str, Probe],
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> dict[str, float]:
    """For each layer, the relative squared change of the model's output for each of the relative squared error of the
    layer's, when that layer alone has another weight. Small errors of several layers that do not know of each other
    then add up to about the sum of sensitivity times error.

    The errors are those of rounding, not noise: they are the same at every place and time, so that much more of them
    arrives than of noise of the same size.

    Args:
        model: in evaluation mode.
        sampling: whose calls the model answers; of a masked language model the roots of the probabilities at masked
            places are compared (see evaluation.outputs.root_probabilities).
        probes: by weight tensor, "blocks.0.proj.weight", what to put in its place.

    Returns the mean change over CALLS steps of the sampling of SAMPLES samples over the error, by weight tensor; a
    layer whose error is 0 is left out.
    """
    calls = _joined(_calls(model, sampling, seed))
    plain = [_output(model, call, sampling.mask_token_id) for call in calls]
    modules = dict(model.named_modules())
    found = {}
    for number, (name, probe) in enumerate(probes.items()):
        if progress is not None:
            progress(f"sensitivity to {name}", number / len(probes))
        module = modules[name.removesuffix(".weight")]
        with _probed(module, probe(module)) as error:
            got = [_output(model, call, sampling.mask_token_id) for call in calls]
        if error.relative() > 0:
            found[name] = _change(plain, got) / error.relative()
    return found


def _calls(model: nn.Module, sampling: SelfSampling, seed: int) -> list[Call]:
    """Arguments of CALLS forward calls of the model's own sampling, from the middles of equal parts of it."""
    wanted = {int((i + 0.5) * sampling.steps / CALLS) for i in range(CALLS)}
    kept: list[Call] = []
    count = 0

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal count
        if count in wanted:
            kept.append((args, {key: v.clone() if isinstance(v, torch.Tensor) else v for key, v in kwargs.items()}))
        count += 1

    hook = model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        run_sampler(sampling.sample(model, list(range(SAMPLES)), seed, unchanged))
    finally:
        hook.remove()
    return kept


def _joined(calls: list[Call]) -> list[Call]:
    """One call with the samples of all, which is much faster, where every argument has a value for each sample."""
    keys = calls[0][1].keys()
    batched = all(
        not args
        and kwargs.keys() == keys
        and all(isinstance(v, torch.Tensor) and v.dim() > 0 and len(v) == SAMPLES for v in kwargs.values())
        for args, kwargs in calls
    )
    if not batched:
        return calls
    return [((), {key: torch.cat([kwargs[key] for _, kwargs in calls]) for key in keys})]


def _change(want: list[torch.Tensor], got: list[torch.Tensor]) -> float:
    """Mean over samples of the relative squared change."""
    changes = [
        (b - a).flatten(1).square().sum(1) / a.flatten(1).square().sum(1).clamp(min=1e-30)
        for a, b in zip(want, got, strict=True)
    ]
    return float(torch.cat(changes).mean())


def _output(model: nn.Module, call: Call, mask_token_id: int | None) -> torch.Tensor:
    args, kwargs = call
    output = output_tensor(model(*args, **kwargs)).float()
    tokens = kwargs.get("input_ids")
    if mask_token_id is not None and isinstance(tokens, torch.Tensor):
        output = root_probabilities(output, tokens, mask_token_id)
    return output.double()


class _Error:
    """Squared sums over the outputs of a layer."""

    def __init__(self) -> None:
        self._want = self._error = 0.0

    def add(self, want: torch.Tensor, got: torch.Tensor) -> None:
        self._want += float(want.double().square().sum())
        self._error += float((got - want).double().square().sum())

    def relative(self) -> float:
        return self._error / self._want if self._want > 0 else 0.0


@contextlib.contextmanager
def _probed(module: Any, weight: torch.Tensor) -> Iterator[_Error]:
    """The module answers with another weight, and what that does to its own outputs is summed up."""
    error = _Error()
    original = module.weight.data
    # Channels of a convolution are the second axis, those of a linear layer the last.
    bias: Any = 0.0 if module.bias is None else module.bias
    if module.bias is not None and not isinstance(module, nn.Linear):
        bias = bias.reshape(-1, *[1] * (module.weight.dim() - 2))

    def answer(_: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        module.weight.data = weight
        try:
            got: torch.Tensor = module.forward(*args)
        finally:
            module.weight.data = original
        error.add(output - bias, got - bias)
        return got

    hook = module.register_forward_hook(answer)
    try:
        yield error
    finally:
        hook.remove()
