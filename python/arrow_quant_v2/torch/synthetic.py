"""Calibration samples that a model makes itself: sampling trajectories, and unmasking of text."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pathlib
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.errors import UnsupportedModelError
from arrow_quant_v2.model_file import read_json

TRAJECTORY_STEPS = 50
UNMASKING_STEPS = 32
BATCH = 32

# One forward call: the samples in its batch, and its keyword arguments.
Call = tuple[list[int], dict[str, Any]]
# (time, output) -> what the sampler is given instead of a model's output.
Change = Callable[[float, torch.Tensor], torch.Tensor]
# Runs the model over some samples, yields them before each call, and returns what comes out in the end.
Sampler = Callable[[nn.Module, list[int], int, Change], Generator[list[int], None, torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class SelfSampling:
    """How a model makes its own calibration samples.

    ``time_span``: times lie in [0, time_span). ``sample(model, samples, seed, change)`` makes one batch.
    """

    time_span: float
    steps: int
    mask_token_id: int | None
    sample: Sampler

    def drive(self, model: nn.Module, count: int, seed: int) -> Iterator[list[int]]:
        """Run the model's forward over ``count`` samples and yield those of each call just before it."""
        for begin in range(0, count, BATCH):
            ids = list(range(begin, min(begin + BATCH, count)))
            yield from self.sample(model, ids, seed + begin, unchanged)


def unchanged(time: float, output: torch.Tensor) -> torch.Tensor:
    return output


def run_sampler(
    sampler: Generator[list[int], None, torch.Tensor], before_call: Callable[[], None] | None = None
) -> torch.Tensor:
    """Run a sampler to its end; what comes out."""
    while True:
        try:
            next(sampler)
        except StopIteration as end:
            result: torch.Tensor = end.value
            return result
        if before_call is not None:
            before_call()


def self_sampling(model: nn.Module, path: pathlib.Path) -> SelfSampling:
    """The way to sample ``model``, loaded from ``path``. Raises UnsupportedModelError where none is known."""
    mask_token_id = find_mask_token(model, path)
    if mask_token_id is not None:
        length = sequence_length(model, path)
        return SelfSampling(1.0, UNMASKING_STEPS, mask_token_id, functools.partial(_unmask, mask_token_id, length))
    inputs = _input_makers(model)
    scheduler = load_scheduler(path)
    span = float(scheduler.config.num_train_timesteps)
    return SelfSampling(span, TRAJECTORY_STEPS, None, functools.partial(_denoise, scheduler, inputs))


# ---- image and audio: sampling trajectories


def load_scheduler(path: pathlib.Path) -> Any:
    """The model's scheduler as DDIM, from scheduler/ in or beside the folder, else DDIM with its default schedule."""
    diffusers = importlib.import_module("diffusers")
    root = path if path.is_dir() else path.parent
    for folder in (root / "scheduler", root.parent / "scheduler"):
        if not (folder / "scheduler_config.json").exists():
            continue
        config = read_json(folder / "scheduler_config.json")
        cls = getattr(diffusers, str(config.get("_class_name")), None)
        if cls is not None and "Flow" in cls.__name__:
            return cls.from_config(config)
        return diffusers.DDIMScheduler.from_config({**config, "_class_name": "DDIMScheduler"})
    return diffusers.DDIMScheduler(clip_sample=False)


# (batch, generator) -> value of one argument of forward.
InputMaker = Callable[[int, torch.Generator], torch.Tensor]


# Settings of models whose forward fails without an argument that its signature does not require.
_CONDITIONS = {
    "cross_attention_dim": "encoder_hidden_states",
    "joint_attention_dim": "encoder_hidden_states",
    "pooled_projection_dim": "pooled_projections",
}


def denoiser_arguments(model: nn.Module) -> list[str]:
    """Arguments of a denoiser's forward, the sample first. Raises UnsupportedModelError where one besides timestep and
    class_labels is needed."""
    config: Any = getattr(model, "config", None)
    parameters = inspect.signature(model.forward).parameters
    names = list(parameters)
    if config is None or "timestep" not in names:
        raise UnsupportedModelError.compose(
            f"{type(model).__name__}: how to sample it is not known",
            remedy="Give samples, a pipeline with prompts, or a calibration file.",
        )
    by_class = bool(class_count(config)) and "class_labels" in names
    made = {"timestep", "class_labels"} if by_class else {"timestep"}
    unknown = [n for n in names[1:] if n not in made and _is_required(parameters[n])]
    if not by_class:
        unknown += [n for key, n in _CONDITIONS.items() if _get(config, key) and n not in unknown]
    if unknown:
        raise UnsupportedModelError.compose(
            f"{type(model).__name__}: its condition ({', '.join(unknown)}) cannot be made up",
            remedy="Give samples, or a pipeline with prompts.",
        )
    return names


def class_count(config: Any) -> int:
    """Classes of a class-conditional denoiser, without the one more that transformers keep for "no class"; else 0."""
    return int(_get(config, "num_embeds_ada_norm") or _get(config, "num_class_embeds") or 0)


def _input_makers(model: nn.Module) -> dict[str, InputMaker]:
    """What to give each argument of forward besides the timestep; the first is the sample itself."""
    config: Any = getattr(model, "config", None)
    names = denoiser_arguments(model)
    channels, dims = sample_dims(config)
    makers: dict[str, InputMaker] = {names[0]: lambda n, g: torch.randn(n, channels, *dims, generator=g)}
    classes = class_count(config)
    if classes and "class_labels" in names:
        makers["class_labels"] = lambda n, g: torch.randint(0, classes, (n,), generator=g)
    return makers


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD


def _get(config: Any, name: str) -> Any:
    return getattr(config, name, None)


def sample_dims(config: Any) -> tuple[int, tuple[int, ...]]:
    """Channels and sizes of a denoiser's samples. Raises UnsupportedModelError where config.json does not tell them."""
    channels, size = _get(config, "in_channels"), _get(config, "sample_size")
    if channels is None or size is None:
        raise UnsupportedModelError.compose(
            "config.json tells no in_channels and sample_size, so samples cannot be made up", remedy="Give samples."
        )
    if isinstance(size, int):
        is_1d = _get(config, "down_block_types") and "1D" in str(config.down_block_types)
        return int(channels), (size,) if is_1d else (size, size)
    return int(channels), tuple(int(n) for n in size)


def _denoise(
    scheduler: Any, makers: dict[str, InputMaker], model: nn.Module, ids: list[int], seed: int, change: Change
) -> Generator[list[int], None, torch.Tensor]:
    """DDIM from noise; every step of every sample is one row of a call's batch."""
    dtype = next(model.parameters()).dtype
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: make(len(ids), generator) for name, make in makers.items()}
    sample_name = next(iter(inputs))
    x = inputs.pop(sample_name)
    scheduler.set_timesteps(TRAJECTORY_STEPS)
    for t in scheduler.timesteps:
        yield ids
        steps = torch.full((len(ids),), float(t)) if t.is_floating_point() else torch.full((len(ids),), int(t))
        output = model(**{sample_name: x.to(dtype), "timestep": steps}, **inputs)
        predicted = output_tensor(output).float()[:, : x.shape[1]]  # a learned variance follows the mean
        x = scheduler.step(change(float(t), predicted), t, x).prev_sample
    return x


def output_tensor(output: Any) -> torch.Tensor:
    """The tensor of what a forward call returned: itself, or the first field."""
    found = output if isinstance(output, torch.Tensor) else output[0]
    assert isinstance(found, torch.Tensor)
    return found


# ---- text and code: unmasking


def find_mask_token(model: nn.Module, path: pathlib.Path) -> int | None:
    """The mask token of a masked language model: metadata.json, config.json, tokenizer files; None for others."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "vocab_size"):
        return None
    root = path if path.is_dir() else path.parent
    for name in ("metadata.json", "config.json"):
        if (root / name).exists():
            value = read_json(root / name).get("mask_token_id")
            if isinstance(value, int):
                return value
    return _mask_token_of_tokenizer(root)


def _mask_token_of_tokenizer(root: pathlib.Path) -> int | None:
    if not (root / "tokenizer_config.json").exists():
        return None
    added = read_json(root / "tokenizer_config.json").get("added_tokens_decoder", {})
    wanted = read_json(root / "tokenizer_config.json").get("mask_token")
    content = wanted.get("content") if isinstance(wanted, dict) else wanted
    for number, token in added.items() if isinstance(added, dict) else ():
        if content is not None and isinstance(token, dict) and token.get("content") == content:
            return int(number)
    return None


def sequence_length(model: nn.Module, path: pathlib.Path) -> int:
    """Tokens of a window: metadata.json, else the positions of the model, at most 256."""
    root = path if path.is_dir() else path.parent
    if (root / "metadata.json").exists():
        length = read_json(root / "metadata.json").get("sequence_length")
        if isinstance(length, int) and length > 0:
            return length
    return min(int(getattr(model.config, "max_position_embeddings", 256)), 256)


def _unmask(
    mask_token_id: int, length: int, model: nn.Module, ids: list[int], seed: int, change: Change
) -> Generator[list[int], None, torch.Tensor]:
    """Ancestral sampling from full mask in random order (Sahoo et al. 2024, MDLM, section 3.4): every step of every
    sample is one row of a call's batch, its time the share of masked tokens."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(ids), length), mask_token_id)
    order = torch.rand(len(ids), length, generator=generator).argsort(1).argsort(1)
    for step in range(UNMASKING_STEPS):
        yield ids
        masked = float((tokens == mask_token_id).sum()) / tokens.numel()
        logits = change(masked, output_tensor(model(input_ids=tokens)).float())
        logits[..., mask_token_id] = -torch.inf
        drawn = torch.multinomial(logits.flatten(0, 1).softmax(-1), 1, generator=generator).reshape(tokens.shape)
        reached = order < length * (step + 1) // UNMASKING_STEPS
        tokens = torch.where(reached & (tokens == mask_token_id), drawn, tokens)
    return tokens
