"""Denoisers: samples of both models from the same noise, and errors of the predictions on the way."""

from __future__ import annotations

from typing import Any

from arrow_quant_v2.progress import ProgressCallback, part_of
from arrow_quant_v2.torch.evaluation.forward import BATCH, Inputs, Steps, batches, given_errors
from arrow_quant_v2.torch.evaluation.outputs import OutputErrors, TeacherForced
from arrow_quant_v2.torch.evaluation.pair import ModelPair
from arrow_quant_v2.torch.evaluation.pictures import PictureFigures
from arrow_quant_v2.torch.evaluation.sound import SoundFigures
from arrow_quant_v2.torch.synthetic import SelfSampling, run_sampler, sample_dims, unchanged

Figures = PictureFigures | SoundFigures


def compare_samples(
    pair: ModelPair, inputs: Inputs, count: int, seed: int, report: ProgressCallback | None
) -> dict[str, Any]:
    """kind, steps, the figures of PictureFigures or SoundFigures, output_error (of the float model's trajectories, or
    of noised data), error_source, and missing."""
    sampling = pair.sampling()
    kind, figures = _figures_of(pair)
    own = inputs.data is None
    along = _sample_both(pair, sampling, figures, count, seed, part_of(report, 0, 1 if own else 0.8, None))
    errors, source = (
        (along, "synthetic") if own else given_errors(pair, inputs, count, seed, part_of(report, 0.8, 1, None))
    )
    values, missing = figures.figures()
    return {
        "kind": kind, "steps": sampling.steps, **values, "output_error": errors.figures(), "error_source": source,
        "missing": missing,
    }  # fmt: skip


def _figures_of(pair: ModelPair) -> tuple[str, Figures]:
    """What the model makes: sounds in one dimension; pictures in two, of one or three channels and without an
    autoencoder beside it; latents otherwise."""
    channels, dims = sample_dims(pair.reference.config)
    if len(dims) == 1:
        return "audio", SoundFigures()
    root = pair.path if pair.path.is_dir() else pair.path.parent
    decoded = any((root.parent / name / "config.json").exists() for name in ("vae", "vqvae", "movq"))
    pictures = len(dims) == 2 and channels in (1, 3) and not decoded
    return "image" if pictures else "latent", PictureFigures(pictures, rgb=channels == 3)


def _sample_both(
    pair: ModelPair,
    sampling: SelfSampling,
    figures: Figures,
    count: int,
    seed: int,
    report: ProgressCallback | None,
) -> OutputErrors:
    """Sample the float model, the quantized one answering the same calls, and then the quantized one alone; BATCH
    samples at a time."""
    errors, parts = OutputErrors(), batches(count, BATCH)
    steps = Steps(2 * len(parts) * sampling.steps, report)
    for ids in parts:
        forced = TeacherForced(pair, errors)
        want = run_sampler(sampling.sample(forced, ids, seed + ids[0], unchanged), steps.next)
        got = run_sampler(sampling.sample(pair.candidate, ids, seed + ids[0], unchanged), steps.next)
        figures.add(want, got)
    return errors
