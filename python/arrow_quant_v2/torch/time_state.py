"""The current diffusion time, which quantized layers follow.

Kept in context variables: threads and tasks have their own.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.torch.call_time import as_times, call_times, spread

# Times of the innermost forward call, float64 [1] or [batch] on the CPU, or None, and those of the calls around it.
_Frame = tuple[torch.Tensor | None, Any]
_calls: ContextVar[_Frame | None] = ContextVar("arrow_quant_times", default=None)
# Times that were set by hand, by the model's identity; they overrule what a call says.
_by_hand: ContextVar[Mapping[int, torch.Tensor] | None] = ContextVar("arrow_quant_times_by_hand", default=None)


def current_times() -> torch.Tensor | None:
    """Times of the forward call in progress, float64 [1] or [batch]; None when nothing told them."""
    frame = _calls.get()
    return None if frame is None else frame[0]


def groups_at(inner: torch.Tensor, batch: int, name: str) -> torch.Tensor:
    """The time group of each sample of a batch, int64 [batch], or [1] where all are in the same.

    Args:
        inner: boundaries between the groups, float64, ascending; times outside belong to the nearest group.
        batch: samples in the layer's input.
        name: of the layer's weight.

    Raises:
        ConfigurationError: nothing told the time, or the times do not fit the batch.
    """
    times = current_times()
    if times is None:
        raise ConfigurationError(
            f"tensor '{name}': the call tells no timestep. Call the model with timestep=..., or use "
            "`with timestep(model, t):`."
        )
    groups = torch.bucketize(times, inner, right=True)
    if bool((groups == groups[0]).all()):
        return groups[:1]
    if batch % len(groups) != 0:
        raise ConfigurationError(
            f"tensor '{name}': {len(groups)} timesteps do not fit a batch of {batch}. Give one per sample."
        )
    return spread(groups, batch)


@contextlib.contextmanager
def timestep(model: nn.Module, t: Any) -> Iterator[None]:
    """Set the diffusion time of ``model``'s quantized layers by hand.

    Args:
        model: as load_quantized returned it.
        t: a timestep, or the mask ratio of a masked language model: a number, or one per sample of the batch.

    It holds in the thread or task that enters it, also where layers are called alone.
    """
    times = as_times(t)
    by_hand = _by_hand.set({**(_by_hand.get() or {}), id(model): times})
    call = _calls.set((times, _calls.get()))
    try:
        yield
    finally:
        _calls.reset(call)
        _by_hand.reset(by_hand)


def follow_time(model: nn.Module, mask_token_id: int | None) -> None:
    """Make calls of ``model`` tell their time: the argument timestep, t, sigma, ..., or the share of masked tokens."""
    model.register_forward_pre_hook(functools.partial(_enter, mask_token_id), with_kwargs=True)
    model.register_forward_hook(_leave, always_call=True)


def _enter(mask_token_id: int | None, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    times = (_by_hand.get() or {}).get(id(model))
    if times is None:
        times = call_times(model, args, kwargs, mask_token_id)
    _calls.set((times, _calls.get()))


def _leave(model: nn.Module, args: Any, output: Any) -> None:
    frame = _calls.get()
    _calls.set(None if frame is None else frame[1])
