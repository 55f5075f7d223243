"""How far the outputs of two models on the same inputs are apart, by time."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.torch.call_time import TOKEN_NAMES, TimeFunction, as_times, bound_arguments, call_times, spread
from arrow_quant_v2.torch.evaluation.pair import ModelPair
from arrow_quant_v2.torch.synthetic import output_tensor

# Times nearer than this are one: the share of masked tokens is a quotient.
_DIGITS = 6


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Over samples at one time: want^2, want got, got^2, (got - want)^2."""

    time: float | None
    samples: int = 0
    want: float = 0.0
    dot: float = 0.0
    got: float = 0.0
    error: float = 0.0

    def plus(self, other: _Sums) -> _Sums:
        values = zip(dataclasses.astuple(self)[1:], dataclasses.astuple(other)[1:], strict=True)
        return _Sums(self.time, *(a + b for a, b in values))

    def figures(self) -> dict[str, Any]:
        """Outputs that are not finite have cosine 0 and no error."""
        error: float | None = None
        cosine = 0.0
        if self.error == 0:
            error, cosine = 0.0, 1.0
        elif math.isfinite(self.want + self.got + self.error) and self.want > 0:
            error = self.error / self.want
            norm = math.sqrt(self.want) * math.sqrt(self.got)
            cosine = self.dot / norm if norm > 0 else 0.0
        return {"time": self.time, "samples": self.samples, "relative_squared_error": error, "cosine": cosine}


class OutputErrors:
    """Sums over samples, by time; as many as there are different times."""

    def __init__(self) -> None:
        self.samples = 0
        self._sums: dict[float | None, _Sums] = {}

    def add(self, times: torch.Tensor | None, want: torch.Tensor, got: torch.Tensor) -> None:
        """Outputs [batch, ...] of the float and the quantized model, and the time of each sample, or None."""
        keys = [None] * len(want) if times is None else [round(t, _DIGITS) for t in spread(times, len(want)).tolist()]
        for key, row in zip(keys, _products(want.flatten(1).double(), got.flatten(1).double()), strict=True):
            self._sums[key] = self._sums.get(key, _Sums(key)).plus(_Sums(key, 1, *row))
        self.samples += len(want)

    def figures(self, parts: int = 50) -> dict[str, Any]:
        """What the sums say, for each time or, where there are more than ``parts``, for as many equal parts of them.

        Returns relative_squared_error (mean over times of |got - want|^2 / |want|^2; None where an output was not
        finite), cosine (of all outputs together; 0 then), min_cosine and worst_time, by_time (time, samples,
        relative_squared_error, cosine), from the largest time to the least.
        """
        rows = [sums.figures() for sums in self._grouped(parts)]
        errors = [row["relative_squared_error"] for row in rows]
        worst = min(rows, key=lambda row: float(row["cosine"]))
        return {
            "relative_squared_error": None if None in errors else math.fsum(errors) / len(errors),
            "cosine": _merged(self._sums.values()).figures()["cosine"],
            "min_cosine": worst["cosine"],
            "worst_time": worst["time"],
            "by_time": rows,
        }

    def _grouped(self, parts: int) -> list[_Sums]:
        known = sorted((time for time in self._sums if time is not None), reverse=True)
        timeless = [self._sums[None]] if None in self._sums else []
        if len(known) <= parts:
            return [self._sums[time] for time in known] + timeless
        width = (known[0] - known[-1]) / parts
        groups = itertools.groupby(known, key=lambda time: min(parts - 1, int((known[0] - time) / width)))
        return [_merged([self._sums[time] for time in group]) for _, group in groups] + timeless


def _merged(sums: Collection[_Sums]) -> _Sums:
    """Of several times; theirs is the mean."""
    times = [one.time for one in sums if one.time is not None]
    start = _Sums(math.fsum(times) / len(times) if times else None)
    return functools.reduce(_Sums.plus, sums, start)


def _products(want: torch.Tensor, got: torch.Tensor) -> list[list[float]]:
    """Of each row: want^2, want got, got^2, (got - want)^2."""
    products = (want * want, want * got, got * got, (got - want).square())
    found: list[list[float]] = torch.stack([product.sum(1) for product in products], 1).tolist()
    return found


class TeacherForced(nn.Module):
    """Stands for the float model in its own sampling, and has the quantized one answer the same calls.

    Args:
        errors: where their differences go.
        stride: one of so many calls is compared, the middle one.
        time_of: (args, kwargs) -> time of a call, where its arguments do not tell it.
    """

    def __init__(
        self, pair: ModelPair, errors: OutputErrors, stride: int = 1, time_of: TimeFunction | None = None
    ) -> None:
        super().__init__()
        self.reference = pair.reference
        self._pair, self._errors, self._stride, self._time_of = pair, errors, stride, time_of
        self._calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.reference(*args, **kwargs)
        if self._calls % self._stride == self._stride // 2:
            want, got = output_tensor(output), output_tensor(self._pair.candidate(*args, **kwargs))
            arguments = bound_arguments(self.reference, args, kwargs)
            self._errors.add(self._times(args, kwargs), self._compared(want, arguments), self._compared(got, arguments))
        self._calls += 1
        return output

    def _times(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        if self._time_of is not None:
            return as_times(self._time_of(args, kwargs))
        return call_times(self.reference, args, kwargs, self._pair.mask_token_id)

    def _compared(self, output: torch.Tensor, arguments: Mapping[str, Any]) -> torch.Tensor:
        """What of an output the sampler uses."""
        mask_token_id = self._pair.mask_token_id
        tokens = next((arguments[name] for name in TOKEN_NAMES if name in arguments), None)
        if mask_token_id is not None and isinstance(tokens, torch.Tensor) and output.shape[:-1] == tokens.shape:
            return root_probabilities(output, tokens, mask_token_id)
        channels = getattr(getattr(self.reference, "config", None), "in_channels", None)
        if output.dim() > 2 and isinstance(channels, int) and output.shape[1] == 2 * channels:
            return output[:, :channels]  # a learned variance follows the mean
        return output


def root_probabilities(logits: torch.Tensor, tokens: torch.Tensor, mask_token_id: int) -> torch.Tensor:
    """Square roots of the probabilities [batch, length, vocabulary] at masked places, 0 elsewhere.

    The cosine of two of these is the mean of the Bhattacharyya coefficients of the distributions, and their relative
    squared error twice the mean squared Hellinger distance. Logits themselves would tell little: softmax does not see
    a shift of them, and tokens that never occur have the largest.
    """
    logits = logits.float().clone()
    logits[..., mask_token_id] = -torch.inf  # the mask is never drawn
    masked = (tokens == mask_token_id).unsqueeze(-1)
    return torch.where(masked, logits.softmax(-1).sqrt(), torch.zeros((), dtype=logits.dtype))
