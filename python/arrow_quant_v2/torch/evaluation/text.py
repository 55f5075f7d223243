"""Masked language models: likelihood and agreement at fixed masks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from arrow_quant_v2.calibration_columns import checked_columns
from arrow_quant_v2.calibration_data import BadRows, open_data
from arrow_quant_v2.progress import ProgressCallback, part_of
from arrow_quant_v2.torch.evaluation.forward import BATCH, Inputs, Steps, batches
from arrow_quant_v2.torch.evaluation.pair import ModelPair
from arrow_quant_v2.torch.masked_text import masked_window, reader_of, windows
from arrow_quant_v2.torch.synthetic import output_tensor, run_sampler, sequence_length, unchanged

# Middles of ten equal parts of (0, 1], so that their mean is the integral of the bound by the midpoint rule.
MASK_RATIOS = tuple((i + 0.5) / 10 for i in range(10))
_MEANS = {
    "nelbo_float": "cross_entropy_float", "nelbo_quantized": "cross_entropy_quantized", "kl": "kl",
    "flip_rate": "flip_rate",
}  # fmt: skip
# Logits of one call, 256 MB in float32.
_MAX_LOGITS = 1 << 26
# Low enough that the mask has no probability, and finite.
_NEVER = -1e5


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Over masked tokens: negative log-likelihoods, divergence, different most likely tokens, and how many."""

    float_nll: float
    quantized_nll: float
    kl: float
    flips: float
    tokens: int


def compare_text(
    pair: ModelPair, inputs: Inputs, count: int, seed: int, report: ProgressCallback | None
) -> dict[str, Any]:
    """Both models on ``count`` windows of text, each masked at MASK_RATIOS, with the same masks.

    The negative evidence lower bound of masked diffusion with a linear schedule (Sahoo et al. 2024, MDLM) is the
    integral over mask ratios of the cross-entropy of the masked tokens, with so many tokens masked as the ratio says
    instead of each at random, which varies less (Ou et al. 2024; Nie et al. 2025, LLaDA).

    Returns kind, windows (where they come from), window_length, nelbo_float and nelbo_quantized (nats a token),
    kl (of the float model's distribution from the quantized one's, nats) and flip_rate (share of masked tokens whose
    most likely value differs), means over ratios, None where logits were not finite; by_mask_ratio (mask_ratio,
    cross_entropy_float, cross_entropy_quantized, kl, flip_rate, tokens), missing.
    """
    sampled = inputs.data is None
    begin = 0.5 if sampled else 0.0
    found, source = _windows(pair, inputs, count, seed, part_of(report, 0, begin, None))
    parts = torch.split(found, _batch_size(pair, found.shape[1]))
    steps = Steps(len(parts) * len(MASK_RATIOS), part_of(report, begin, 1, None))
    rows = [_row(pair, parts, ratio, seed, steps) for ratio in MASK_RATIOS]
    means = {name: _mean(rows, key) for name, key in _MEANS.items()}
    missing = {name: "a model's logits hold NaN or infinity" for name, value in means.items() if value is None}
    head = {"kind": "text", "windows": source, "window_length": found.shape[1]}
    return {**head, **means, "by_mask_ratio": rows, "missing": missing}


def _mean(rows: list[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows]
    return None if None in values else math.fsum(values) / len(values)


def _batch_size(pair: ModelPair, length: int) -> int:
    vocabulary = int(pair.reference.config.vocab_size)  # type: ignore[union-attr,arg-type]
    return max(1, min(BATCH, _MAX_LOGITS // (length * vocabulary)))


def _windows(
    pair: ModelPair, inputs: Inputs, count: int, seed: int, report: ProgressCallback | None
) -> tuple[torch.Tensor, str]:
    """Tokens [count, length] of data or of the float model's own sampling, and where they come from."""
    length = sequence_length(pair.reference, pair.path)
    if inputs.data is None:
        sampling, parts = pair.sampling(), batches(count, _batch_size(pair, length))
        steps = Steps(len(parts) * sampling.steps, report)
        drawn = [run_sampler(sampling.sample(pair.reference, i, seed + i[0], unchanged), steps.next) for i in parts]
        return torch.cat(drawn), "the float model's own sampling"
    vocabulary = int(pair.reference.config.vocab_size)  # type: ignore[union-attr,arg-type]
    data = open_data(inputs.data, "text", inputs.split)
    reader = reader_of(pair.path, vocabulary, checked_columns(inputs.columns, "text"))
    return torch.stack(list(windows(data, reader, length, count, seed, BadRows(inputs.max_bad_rows)))), data.name


def _row(pair: ModelPair, parts: Sequence[torch.Tensor], ratio: float, seed: int, steps: Steps) -> dict[str, Any]:
    """Figures at one mask ratio; masks depend on the seed and the ratio alone."""
    assert pair.mask_token_id is not None
    generator = torch.Generator().manual_seed((seed + round(ratio * 1000)) % 2**32)
    sums = []
    for part in parts:
        steps.next()
        masked = torch.stack([masked_window(window, ratio, pair.mask_token_id, generator) for window in part])
        sums.append(_compare(pair, part, masked, pair.mask_token_id))
    total = _Sums(*(sum(values) for values in zip(*map(dataclasses.astuple, sums), strict=True)))
    count = max(1, total.tokens)
    return {
        "mask_ratio": ratio,
        "cross_entropy_float": _finite(total.float_nll / count),
        "cross_entropy_quantized": _finite(total.quantized_nll / count),
        "kl": _finite(total.kl / count),
        "flip_rate": total.flips / count,
        "tokens": total.tokens,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _compare(pair: ModelPair, tokens: torch.Tensor, masked: torch.Tensor, mask_token_id: int) -> _Sums:
    where = (masked == mask_token_id) & (tokens != mask_token_id)
    want = _log_probabilities(pair.reference, masked, where, mask_token_id)
    got = _log_probabilities(pair.candidate, masked, where, mask_token_id)
    targets = tokens[where]
    return _Sums(
        float_nll=float(F.nll_loss(want, targets, reduction="none").double().sum()),
        quantized_nll=float(F.nll_loss(got, targets, reduction="none").double().sum()),
        kl=float(F.kl_div(got, want, log_target=True, reduction="none").double().sum()),
        flips=float((want.argmax(-1) != got.argmax(-1)).sum()),
        tokens=len(targets),
    )


def _log_probabilities(model: nn.Module, masked: torch.Tensor, where: torch.Tensor, mask_token_id: int) -> torch.Tensor:
    """At masked places, [places, vocabulary]; the mask itself has no probability, as in sampling."""
    logits = output_tensor(model(input_ids=masked))[where].float()
    logits[:, mask_token_id] = _NEVER
    return logits.log_softmax(-1)
