"""The diffusion time of a forward call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

TIME_NAMES = ("timestep", "timesteps", "t", "sigma", "sigmas", "noise_level", "time", "time_step", "time_steps")
TOKEN_NAMES = ("input_ids", "tokens")

# (positional arguments, keyword arguments) -> time per sample.
TimeFunction = Callable[[Sequence[Any], Mapping[str, Any]], Any]


def bound_arguments(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a forward call by name; positional ones beyond the signature are left out."""
    try:
        names = list(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        names = []
    return {**dict(zip(names, args, strict=False)), **kwargs}


def call_times(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], mask_token_id: int | None
) -> torch.Tensor | None:
    """Times of a call, float64 [1] or [batch]: the argument that is called timestep, t, sigma, ..., else the share of
    masked tokens in each sample. None when the call tells no time."""
    arguments = bound_arguments(model, args, kwargs)
    for name in TIME_NAMES:
        value = arguments.get(name)
        if isinstance(value, (int, float)) or (isinstance(value, torch.Tensor) and value.numel() > 0):
            return as_times(value)
    if mask_token_id is None:
        return None
    for name in TOKEN_NAMES:
        tokens = arguments.get(name)
        if isinstance(tokens, torch.Tensor) and tokens.dim() == 2 and tokens.numel() > 0:
            return (tokens == mask_token_id).double().mean(1).cpu()
    return None


def as_times(value: Any) -> torch.Tensor:
    """A number, list or tensor of times as float64 [n] on the CPU; one column per sample is averaged."""
    times = torch.as_tensor(value).detach().double().cpu()
    return times.reshape(1) if times.dim() == 0 else times.reshape(len(times), -1).mean(1)


def spread(values: torch.Tensor, batch: int) -> torch.Tensor:
    """One value per row of a batch: classifier-free guidance and time-major reshapes repeat the samples."""
    if len(values) == batch:
        return values
    if len(values) == 1:
        return values.expand(batch)
    if batch % len(values) == 0:
        return values.repeat_interleave(batch // len(values))
    return values[:1].expand(batch)
