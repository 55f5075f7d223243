"""Images, sounds and latents, noised to a time of the schedule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from arrow_quant_v2.calibration_columns import array_of, audio_of, cell, image_of, whole_number
from arrow_quant_v2.calibration_data import BadRowError, BadRows, Row, Rows, TextFiles
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.torch.masked_text import empty_data, stratified
from arrow_quant_v2.torch.synthetic import class_count, denoiser_arguments, sample_dims

BATCH = 16
_IMAGE_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclasses.dataclass(frozen=True)
class SampleFormat:
    """What a denoiser takes: samples [batch, channels, *dims]; ``name`` is the argument, ``classes`` of class_labels
    (0: none), ``sampling_rate`` in Hz of sounds where config.json tells it; ``dtype`` of its weights."""

    name: str
    channels: int
    dims: tuple[int, ...]
    classes: int
    sampling_rate: int
    dtype: torch.dtype

    @property
    def kind(self) -> str:
        return "audio" if len(self.dims) == 1 else "image"


@dataclasses.dataclass(frozen=True)
class Noised:
    """A sample [channels, *dims] as the model gets it, its timestep and its class."""

    sample: torch.Tensor
    timestep: torch.Tensor
    label: int


def sample_format(model: nn.Module) -> SampleFormat:
    """Raises UnsupportedModelError where a denoiser's arguments are not known or need a condition."""
    config: Any = getattr(model, "config", None)
    names = denoiser_arguments(model)
    channels, dims = sample_dims(config)
    rate = getattr(config, "sample_rate", None)
    classes = class_count(config) if "class_labels" in names else 0
    dtype = next(model.parameters()).dtype
    return SampleFormat(names[0], channels, dims, classes, rate if isinstance(rate, int) else 0, dtype)


def noised_calls(
    data: Rows | TextFiles,
    form: SampleFormat,
    scheduler: Any,
    names: Mapping[str, str],
    count: int,
    seed: int,
    bad: BadRows,
) -> Iterator[dict[str, Any]]:
    """Batches of ``count`` samples, noised to times stratified over the schedule, one in each of ``count`` equal parts.

    The noising is the scheduler's: x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps (Ho et al. 2020, equation 4), or
    (1 - s) x + s eps for flow matching (Lipman et al. 2023). Rows of ``data`` with a timestep are given as they are.
    """
    assert isinstance(data, Rows)
    generator = torch.Generator().manual_seed(seed)
    times = schedule_times(scheduler, stratified(count, generator))
    batch: list[Noised] = []
    for sample in _samples(data, form, scheduler, names, times, generator, bad):
        batch.append(sample)
        if len(batch) == BATCH:
            yield _call(batch, form)
            batch = []
    if batch:
        yield _call(batch, form)


def schedule_times(scheduler: Any, ratios: torch.Tensor) -> torch.Tensor:
    """Timesteps at these shares, in (0, 1], of a scheduler's training schedule."""
    steps = int(scheduler.config.num_train_timesteps)
    places = (ratios * steps).ceil().long().clamp(1, steps) - 1
    if hasattr(scheduler, "add_noise"):
        return places
    found: torch.Tensor = scheduler.timesteps.flip(0)[places]  # flow matching: floating-point times, falling
    return found


def add_noise(scheduler: Any, sample: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """One sample [channels, *dims] at a timestep (a tensor without dimensions)."""
    if hasattr(scheduler, "add_noise"):
        noised: torch.Tensor = scheduler.add_noise(sample[None], noise[None], timestep[None])[0]
    else:
        noised = scheduler.scale_noise(sample[None], timestep[None], noise[None])[0]
    return noised


def _samples(
    data: Rows,
    form: SampleFormat,
    scheduler: Any,
    names: Mapping[str, str],
    times: torch.Tensor,
    generator: torch.Generator,
    bad: BadRows,
) -> Iterator[Noised]:
    number = 0
    while number < len(times):
        before = number
        for row in data.read(bad):
            if number == len(times):
                return
            try:
                sample = _noised(row, form, scheduler, names, times[number], generator)
            except BadRowError as error:
                bad.add(row.where, str(error))
                continue
            yield sample
            number += 1
        if number == before:
            raise empty_data(data.name, bad)
        if data.once and number < len(times):
            return


def _noised(
    row: Row,
    form: SampleFormat,
    scheduler: Any,
    names: Mapping[str, str],
    time: torch.Tensor,
    generator: torch.Generator,
) -> Noised:
    label = _label(cell(row, "label", names), form.classes, generator)
    sample = _clean(row, form, names)
    given = cell(row, "timestep", names) if _has(row, "data", names) else None
    if given is not None:
        return Noised(sample.to(form.dtype), _given_time(given, scheduler), label)
    noise = torch.randn(sample.shape, generator=generator)
    return Noised(add_noise(scheduler, sample, noise, time).to(form.dtype), time, label)


def _given_time(value: Any, scheduler: Any) -> torch.Tensor:
    steps = int(scheduler.config.num_train_timesteps)
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not 0 <= value <= steps:
        raise BadRowError(f"timestep is {value!r}; the schedule has 0..{steps}")
    if hasattr(scheduler, "add_noise"):
        return torch.tensor(whole_number(value, "timestep"))
    return torch.tensor(float(value))


def _label(value: Any, classes: int, generator: torch.Generator) -> int:
    if classes == 0:
        return 0
    if value is None:
        return int(torch.randint(0, classes, (1,), generator=generator))
    label = whole_number(value, "label")
    if not 0 <= label < classes:
        raise BadRowError(f"label is {label}; the model has classes 0..{classes - 1}")
    return label


def _has(row: Row, column: str, names: Mapping[str, str]) -> bool:
    return row.values.get(names.get(column, column)) is not None


def _clean(row: Row, form: SampleFormat, names: Mapping[str, str]) -> torch.Tensor:
    """The row's sample, float32 [channels, *dims]."""
    # A column that was named goes before one that happens to be there.
    known = ("data", "latent", "image", "audio")
    for column in (*(c for c in known if c in names), *known):
        value = cell(row, column, names)
        if value is None:
            continue
        if column == "image":
            return image_tensor(image_of(value, row.folder), form)
        if column == "audio":
            return audio_tensor(*audio_of(value, row.folder), form)
        return _latent(value, cell(row, "shape", names), form)
    raise BadRowError("there is no column data, latent, image or audio; say which one with --column")


def _latent(value: Any, shape: Any, form: SampleFormat) -> torch.Tensor:
    want = (form.channels, *form.dims)
    array = array_of(value, shape)
    if array.ndim == 1 and array.size == math.prod(want):
        array = array.reshape(want)
    if array.shape[:1] == (1,) and array.ndim == len(want) + 1:
        array = array[0]
    if array.shape != want:
        raise BadRowError(f"the array has shape {array.shape}, the model takes {want}")
    return torch.from_numpy(np.ascontiguousarray(array))


def image_tensor(image: Any, form: SampleFormat) -> torch.Tensor:
    """A PIL image in [-1, 1], float32 [channels, height, width]: its shorter relative side fitted, the rest cropped in
    the middle."""
    mode = _IMAGE_MODES.get(form.channels)
    if mode is None or len(form.dims) != 2:
        raise ConfigurationError(
            f"the model takes samples of shape {(form.channels, *form.dims)}, which are no images. Give latents."
        )
    height, width = form.dims
    scale = max(width / image.width, height / image.height)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    fitted = image.convert(mode).resize(size).crop((left, top, left + width, top + height))
    pixels = torch.from_numpy(np.asarray(fitted, dtype=np.float32).reshape(height, width, form.channels).copy())
    return pixels.permute(2, 0, 1).contiguous() / 127.5 - 1


def audio_tensor(samples: np.ndarray[Any, np.dtype[np.float32]], rate: int, form: SampleFormat) -> torch.Tensor:
    """Sound [channels, frames], float32, as the model takes it: its sampling rate (linear interpolation), its channels
    (the mean of them where they differ), its length (the middle, or padded with silence)."""
    if len(form.dims) != 1:
        raise ConfigurationError(
            f"the model takes samples of shape {(form.channels, *form.dims)}, which are no sounds."
        )
    if samples.ndim != 2:
        raise BadRowError(f"the sound has shape {samples.shape}, not [channels, frames]")
    sound = torch.from_numpy(np.ascontiguousarray(samples))
    if form.sampling_rate and rate and rate != form.sampling_rate:
        frames = max(1, round(sound.shape[1] * form.sampling_rate / rate))
        sound = F.interpolate(sound[None], size=frames, mode="linear")[0]
    if len(sound) != form.channels:
        sound = sound.mean(0, keepdim=True).expand(form.channels, -1)
    missing = form.dims[0] - sound.shape[1]
    if missing > 0:
        return F.pad(sound, (0, missing))
    return sound[:, -missing // 2 : -missing // 2 + form.dims[0]].contiguous()


def _call(batch: Sequence[Noised], form: SampleFormat) -> dict[str, Any]:
    call: dict[str, Any] = {
        form.name: torch.stack([n.sample for n in batch]),
        "timestep": torch.stack([n.timestep for n in batch]),
    }
    if form.classes:
        call["class_labels"] = torch.tensor([n.label for n in batch])
    return call
