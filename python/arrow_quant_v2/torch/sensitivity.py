"""What an error of a model in each part of the schedule does to the sample that comes out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from arrow_quant_v2.time_aware import group_of
from arrow_quant_v2.torch.synthetic import Change, SelfSampling, run_sampler, unchanged

# The error that is put into the model's output, as a part of its root mean square.
RELATIVE_NOISE = 0.05
SAMPLES = 8
# Apart from the seeds of samples, whose own noise the disturbance must not repeat. The generator takes 32 bits.
_NOISE_SEED = 0x5EED0001


@torch.inference_mode()
def measure_sensitivity(
    model: nn.Module, sampling: SelfSampling, boundaries: Sequence[float], seed: int = 0, samples: int = SAMPLES
) -> list[float]:
    """For each time group, the change of the final sample when the model's outputs in that group alone are disturbed by
    noise of RELATIVE_NOISE of their size.

    Args:
        model: in evaluation mode.
        sampling: how the model is sampled.
        boundaries: of the time groups, one more than groups.
        seed: of the samples and of the noise.
        samples: made once undisturbed and once for each group.

    Returns the mean over samples of the relative squared change of latents, or of the share of tokens that differ, one
    value per group; 0 where no step of sampling falls into the group.
    """
    ids = list(range(samples))
    plain = run_sampler(sampling.sample(model, ids, seed, unchanged))
    changes = [_disturb(boundaries, group, seed) for group in range(len(boundaries) - 1)]
    return [_change(plain, run_sampler(sampling.sample(model, ids, seed, change))) for change in changes]


def _disturb(boundaries: Sequence[float], group: int, seed: int) -> Change:
    generator = torch.Generator().manual_seed(seed + _NOISE_SEED)

    def change(time: float, output: torch.Tensor) -> torch.Tensor:
        if group_of(boundaries, time) != group:
            return output
        noise = torch.randn(output.shape, generator=generator)
        return output + RELATIVE_NOISE * output.square().mean().sqrt() * noise

    return change


def _change(plain: torch.Tensor, disturbed: torch.Tensor) -> float:
    if not plain.is_floating_point():
        return float((plain != disturbed).double().mean())
    difference = (plain - disturbed).flatten(1).square().sum(1)
    return float((difference / plain.flatten(1).square().sum(1).clamp(min=1e-30)).mean())
