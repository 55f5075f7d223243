"""How much of an error in one layer's output arrives in the output of the model."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.torch.calibrate import load_float_model
from arrow_quant_v2.torch.evaluation.outputs import root_probabilities
from arrow_quant_v2.torch.synthetic import SelfSampling, output_tensor, run_sampler, self_sampling, unchanged

# The error that is put into a layer's output, as a part of its root mean square: that of about 3 to 4 bits.
RELATIVE_NOISE = 0.1
SAMPLES = 4
# Steps of the model's own sampling, evenly over it.
CALLS = 6
# Apart from the seeds of samples. The generator takes 32 bits.
_NOISE_SEED = 0x5EED0002


def sensitivity_of_layers(
    model_path: str | os.PathLike[str], layers: Collection[str], seed: int = 0, progress: ProgressCallback | None = None
) -> dict[str, float]:
    """measure_layer_sensitivity of the model in a folder; raises UnsupportedModelError, MetadataError,
    ModelNotFoundError, ShapeMismatchError where it cannot be built or sampled."""
    model = load_float_model(model_path)
    return measure_layer_sensitivity(model, self_sampling(model, pathlib.Path(model_path)), layers, seed, progress)


@torch.inference_mode()
def measure_layer_sensitivity(
    model: nn.Module,
    sampling: SelfSampling,
    layers: Collection[str],
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> dict[str, float]:
    """For each layer, the relative squared change of the model's output for each of the relative squared error of the
    layer's: the output of that layer alone is disturbed by noise of RELATIVE_NOISE of its size. Small independent
    errors of several layers then add up to about the sum of sensitivity times error.

    Args:
        model: in evaluation mode.
        sampling: whose calls the model answers; of a masked language model the roots of the probabilities at masked
            places are compared (see evaluation.outputs.root_probabilities).
        layers: weight tensors, "blocks.0.proj.weight"; those that are no module's weight are left out.

    Returns the mean over CALLS steps of the sampling of SAMPLES samples, by weight tensor.
    """
    calls = _calls(model, sampling, seed)
    plain = [_output(model, call, sampling.mask_token_id) for call in calls]
    found = {}
    modules = dict(model.named_modules())
    known = [name for name in sorted(layers) if name.removesuffix(".weight") in modules and name.endswith(".weight")]
    for number, name in enumerate(known):
        if progress is not None:
            progress(f"sensitivity to {name}", number / len(known))
        changes = []
        with _disturbed(modules[name.removesuffix(".weight")], seed):
            for call, want in zip(calls, plain, strict=True):
                got = _output(model, call, sampling.mask_token_id)
                changes.append(float((got - want).square().sum() / want.square().sum().clamp(min=1e-30)))
        found[name] = sum(changes) / len(changes) / RELATIVE_NOISE**2
    return found


def _calls(model: nn.Module, sampling: SelfSampling, seed: int) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments of CALLS forward calls of the model's own sampling, from the middles of equal parts of it."""
    wanted = {int((i + 0.5) * sampling.steps / CALLS) for i in range(CALLS)}
    kept = []
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


def _output(model: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]], mask_token_id: int | None) -> torch.Tensor:
    args, kwargs = call
    output = output_tensor(model(*args, **kwargs)).float()
    tokens = kwargs.get("input_ids")
    if mask_token_id is not None and isinstance(tokens, torch.Tensor):
        output = root_probabilities(output, tokens, mask_token_id)
    return output.double()


@contextlib.contextmanager
def _disturbed(module: nn.Module, seed: int) -> Iterator[None]:
    generator = torch.Generator().manual_seed(seed + _NOISE_SEED)

    def disturb(_: nn.Module, __: Any, output: Any) -> Any:
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            return None
        noise = torch.randn(output.shape, generator=generator).to(output.dtype)
        return output + RELATIVE_NOISE * output.square().mean().sqrt() * noise

    hook = module.register_forward_hook(disturb)
    try:
        yield
    finally:
        hook.remove()
