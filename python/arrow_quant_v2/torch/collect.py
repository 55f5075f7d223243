"""Collect activation statistics of any module by hooks."""

from __future__ import annotations

import collections
import dataclasses
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from arrow_quant_v2._native import core
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.torch.call_time import TimeFunction, as_times, call_times, spread
from arrow_quant_v2.torch.unfold import MEASURED, input_rows, row_blocks, row_width

HOLD_OUT_EVERY = 8
# float32 values of one update: bounds the memory of unfolded convolutions.
MAX_VALUES = 1 << 23


@dataclasses.dataclass
class _Input:
    """An input that one or more layers read; ``owner`` hands it to the statistics."""

    numbers: list[int]
    owner: str
    key: tuple[Any, ...]
    tensor: weakref.ref[torch.Tensor] | None = None


class ActivationCollector:
    """A context in which the forward calls of ``model`` feed activation statistics.

    Linear and convolution modules of any rank are measured, those of ``layers`` only when it is given (names of weight
    tensors). Layers that are handed the same tensor share one input. Every eighth sample is held out: its rows go
    to the reservoir that quality is measured on, not into the second moments.

    Args:
        model: the module whose forward is called.
        boundaries: of the time groups, ascending; see arrow_quant_v2.calibration.time_boundaries.
        layers: weight tensors to measure; default all.
        component: name of the model in a pipeline.
        time_of: (args, kwargs) -> time of the call, a number or one per sample; default the argument called timestep,
            timesteps, t, sigma, ..., or the share of ``mask_token_id`` in input_ids.
        mask_token_id: of a masked language model.
        keep_groups: one second moment per time group, or one for all.
        held_out_rows: per input and time group.
        twin: a copy of the model with some layers quantized. Every call runs through it, too; the statistics are of its
            layers, with the inputs that ``model`` has in their places as the reference. Where it takes another way and
            has no such input (a router that decides otherwise), the twin's own counts as both.

    Attributes:
        statistics: the core's ActivationStatistics.
        sample_ids: set it before a call to say which samples its batch holds, where a sample takes many calls.
        calls_without_time: calls whose time could not be told; they count as time 0.
    """

    def __init__(
        self,
        model: nn.Module,
        boundaries: Sequence[float],
        *,
        layers: Collection[str] | None = None,
        component: str = "",
        time_of: TimeFunction | None = None,
        mask_token_id: int | None = None,
        keep_groups: bool = True,
        held_out_rows: int = 128,
        seed: int = 0,
        num_threads: int = 0,
        statistics: Any = None,
        twin: nn.Module | None = None,
    ) -> None:
        self.model = model
        self.twin = twin
        self.component = component
        self.statistics = statistics or core.ActivationStatistics(list(boundaries), keep_groups, held_out_rows, seed)
        self.sample_ids: Sequence[int] | None = None
        self.calls_without_time = 0
        self._layers = layers
        self._time_of = time_of
        self._mask_token_id = mask_token_id
        self._num_threads = num_threads
        self._inputs: dict[str, _Input] = {}
        self._handles: list[Any] = []
        self._references: dict[str, collections.deque[torch.Tensor]] = {}
        self._kept: tuple[weakref.ref[torch.Tensor], torch.Tensor] | None = None
        self._times = torch.zeros(1, dtype=torch.float64)
        self._held_out = torch.zeros(1, dtype=torch.bool)
        self._next_sample = 0

    def __enter__(self) -> Self:
        self._handles.append(self.model.register_forward_pre_hook(self._begin_call, with_kwargs=True))
        self._hook_layers(self.twin or self.model, self._measure)
        if self.twin is not None:
            self._hook_layers(self.model, self._keep)
            self._handles.append(self.model.register_forward_hook(self._run_twin, with_kwargs=True))
        return self

    def _hook_layers(self, model: nn.Module, see: Callable[[str, nn.Module, torch.Tensor], None]) -> None:
        for name, module in model.named_modules():
            if isinstance(module, MEASURED) and (self._layers is None or f"{name}.weight" in self._layers):
                self._handles.append(module.register_forward_pre_hook(_hook(name, see), with_kwargs=True))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def samples_seen(self) -> int:
        """Samples in the batches of all calls, each once."""
        return self._next_sample

    @property
    def reached(self) -> set[str]:
        """Weight tensors that a sample has reached."""
        return {f"{name}.weight" for name in self._inputs}

    def _begin_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._time_of is not None:
            times: torch.Tensor | None = as_times(self._time_of(args, kwargs))
        else:
            times = call_times(self.model, args, kwargs, self._mask_token_id)
        if times is None:
            self.calls_without_time += 1
            times = torch.zeros(1, dtype=torch.float64)
        batch = _batch_size(args, kwargs, len(times))
        ids = self.sample_ids
        if ids is None:
            ids = range(self._next_sample, self._next_sample + batch)
        self._next_sample = max(self._next_sample, max(ids, default=-1) + 1)
        self._held_out = torch.tensor([i % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1 for i in ids])
        self._times = times

    def _keep(self, name: str, module: nn.Module, x: torch.Tensor) -> None:
        """The input of a layer of the float model, until the twin has come to that layer."""
        if self._kept is None or not _same(self._kept[0](), x):
            self._kept = (weakref.ref(x), x.detach().clone())  # what follows may write into x
        self._references.setdefault(name, collections.deque()).append(self._kept[1])

    def _run_twin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        assert self.twin is not None
        self._kept = None
        self.twin(*args, **kwargs)
        self._references.clear()

    def _reference(self, name: str, x: torch.Tensor) -> torch.Tensor | None:
        if self.twin is None:
            return None
        kept = self._references.get(name)
        reference = kept.popleft() if kept else x
        return reference if reference.shape == x.shape else x

    def _measure(self, name: str, module: nn.Module, x: torch.Tensor) -> None:
        reference = self._reference(name, x)
        known = self._inputs.get(name)
        if known is None:
            known = self._inputs[name] = self._new_input(name, module, x)
            self.statistics.map_layer(self.component, f"{name}.weight", known.numbers)
        if known.owner != name:
            if known.tensor is not None and _same(known.tensor(), x):
                return  # the owner has handed it in during this call
            known = self._inputs[name] = self._own_input(name, module)
            self.statistics.map_layer(self.component, f"{name}.weight", known.numbers)
        known.tensor = weakref.ref(x)
        self._update(module, x.detach(), reference, known.numbers)

    def _new_input(self, name: str, module: nn.Module, x: torch.Tensor) -> _Input:
        key = _reading(module, x)
        for other in self._inputs.values():
            if other.key == key and other.tensor is not None and _same(other.tensor(), x):
                return other
        return self._own_input(name, module, key)

    def _own_input(self, name: str, module: nn.Module, key: tuple[Any, ...] = ()) -> _Input:
        numbers = [self.statistics.add_input(row_width(module)) for _ in range(row_blocks(module))]
        return _Input(numbers, name, key)

    def _update(
        self, module: nn.Module, x: torch.Tensor, reference: torch.Tensor | None, numbers: Sequence[int]
    ) -> None:
        batch = x.shape[0] if x.dim() > 1 else 1
        times, held_out = spread(self._times, batch), spread(self._held_out, batch)
        for time in torch.unique(times).tolist():
            for held in (False, True):
                chosen = (times == time) & (held_out == held)
                if not chosen.any():
                    continue
                rows = _chosen_rows(module, x, chosen)
                float_rows = [None] * len(rows) if reference is None else _chosen_rows(module, reference, chosen)
                for number, own, other in zip(numbers, rows, float_rows, strict=True):
                    self.statistics.update(number, own, time, held, self._num_threads, other)


def _hook(name: str, see: Callable[[str, nn.Module, torch.Tensor], None]) -> Callable[..., None]:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs.get("input")
        if isinstance(x, torch.Tensor) and x.numel() > 0:
            see(name, module, x)

    return before


def _chosen_rows(module: nn.Module, x: torch.Tensor, chosen: torch.Tensor) -> list[torch.Tensor]:
    """The rows of some samples of a batch, for the core."""
    part = x if chosen.all() else x[chosen.to(x.device)]
    return [_for_core(rows) for rows in input_rows(module, part, MAX_VALUES)]


def collect_activations(
    model: nn.Module,
    samples: Iterable[Any],
    boundaries: Sequence[float] = (0.0, 1.0),
    *,
    max_samples: int | None = None,
    **options: Any,
) -> ActivationCollector:
    """Run ``samples`` through ``model`` and return the collector with its statistics.

    Each sample holds the arguments of one forward call: a mapping of keyword arguments, a tuple of positional ones, or
    one tensor. Other options are those of ActivationCollector.

    Args:
        model: the module whose forward is called.
        samples: arguments of the calls.
        boundaries: of the time groups, ascending; see arrow_quant_v2.calibration.time_boundaries.
        max_samples: calls at most; None for all.
        options: of ActivationCollector.

    Raises:
        ConfigurationError: there is no sample.
    """
    collector = ActivationCollector(model, boundaries, **options)
    count = 0
    with collector, torch.inference_mode():
        for sample in samples:
            if max_samples is not None and count >= max_samples:
                break
            args, kwargs = call_arguments(sample)
            model(*args, **kwargs)
            count += 1
    if count == 0:
        raise ConfigurationError("calibration: there are no samples. Give at least one, or use calibration='none'.")
    return collector


def call_arguments(sample: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Positional and keyword arguments of a forward call from a mapping, a tuple or a tensor."""
    if isinstance(sample, Mapping):
        return (), sample
    if isinstance(sample, (tuple, list)):
        return sample, {}
    return (sample,), {}


def _batch_size(args: Sequence[Any], kwargs: Mapping[str, Any], at_least: int) -> int:
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor) and value.dim() > 1:
            return max(at_least, int(value.shape[0]))
    return at_least


def _reading(module: nn.Module, x: torch.Tensor) -> tuple[Any, ...]:
    """What makes two modules read a tensor in the same way."""
    if isinstance(module, nn.Linear):
        return ("linear", tuple(x.shape))
    places: Any = module
    keys = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return (type(module).__name__, tuple(x.shape), *(getattr(places, key) for key in keys))


def _same(a: torch.Tensor | None, b: torch.Tensor) -> bool:
    # While `a` lives no other tensor is given its memory.
    return a is not None and a.data_ptr() == b.data_ptr() and a.stride() == b.stride()


def _for_core(rows: torch.Tensor) -> torch.Tensor:
    if rows.dtype not in (torch.float32, torch.bfloat16):
        rows = rows.float()
    return rows.cpu().contiguous()
