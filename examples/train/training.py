"""What the training programs of this folder have in common: the loop, samples, and the model's folder."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from safetensors.torch import save_file
from torch import nn

SAMPLING_STEPS = 50
# Quiet sounds need less noise than pictures to be seen, so that it is above the usual 5.
MOST_SNR = 20.0

# (batch size, generator) -> clean samples [batch, channels, *dims] in [-1, 1].
Batches = Callable[[int, torch.Generator], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """``ema`` is the largest decay of the mean of weights."""

    steps: int
    batch: int
    learning_rate: float
    ema: float = 0.995
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Trained:
    """The mean of weights, the loss (mean of the last tenth of the steps), and how long it took."""

    model: nn.Module
    loss: float
    minutes: float


def parse_arguments(description: str, data: str, out: pathlib.Path) -> argparse.Namespace:
    """The command line of a training program, with the number of threads set; ``data`` is the help of --data."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, help=data)
    parser.add_argument("--out", type=pathlib.Path, default=out)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    return arguments


def make_scheduler(prediction: str = "epsilon") -> DDPMScheduler:
    """Noise that grows linearly, betas 1e-4 to 0.02 in 1000 steps (Ho et al. 2020, section 4); the model predicts the
    noise ("epsilon") or the clean sample ("sample")."""
    return DDPMScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", prediction_type=prediction,
        clip_sample=True,
    )  # fmt: skip


def train(model: nn.Module, batches: Batches, scheduler: DDPMScheduler, recipe: Recipe) -> Trained:
    """Learn to predict noise (Ho et al. 2020, algorithm 1) or the clean sample with AdamW, one cycle of the learning
    rate, and a mean of the weights. The same seed and number of threads give the same weights on one machine."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=1e-4)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.steps + 1)
    mean, losses, start = copy.deepcopy(model).eval(), [], time.monotonic()
    model.train()
    for step in range(recipe.steps):
        loss = _loss(model, batches(recipe.batch, generator), scheduler, generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        cycle.step()
        _follow(mean, model, min(recipe.ema, (1 + step) / (10 + step)))
        losses.append(float(loss.detach()))
        if step % 50 == 0 or step + 1 == recipe.steps:
            recent = losses[-50:]
            print(f"step {step} of {recipe.steps}: loss {sum(recent) / len(recent):.4f}", flush=True)
    last = losses[-max(1, recipe.steps // 10) :]
    return Trained(mean, sum(last) / len(last), (time.monotonic() - start) / 60)


def _loss(model: nn.Module, clean: torch.Tensor, scheduler: DDPMScheduler, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(clean.shape, generator=generator)
    times = torch.randint(0, scheduler.config.num_train_timesteps, (len(clean),), generator=generator)
    predicted = model(scheduler.add_noise(clean, noise, times), times).sample
    if scheduler.config.prediction_type == "epsilon":
        return (predicted - noise).square().mean()
    errors = (predicted - clean).square().flatten(1).mean(1)
    return (errors * _weights(scheduler)[times]).mean()


def _weights(scheduler: DDPMScheduler) -> torch.Tensor:
    """Of the error of a clean sample at each time: its signal-to-noise ratio, at most MOST_SNR (Hang et al. 2023,
    Efficient Diffusion Training via Min-SNR Weighting Strategy, section 3.4)."""
    ratio = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    return ratio.clamp(max=MOST_SNR)


@torch.no_grad()
def _follow(mean: nn.Module, model: nn.Module, decay: float) -> None:
    for average, value in zip(mean.state_dict().values(), model.state_dict().values(), strict=True):
        average.lerp_(value, 1 - decay) if value.is_floating_point() else average.copy_(value)


@torch.no_grad()
def sample(model: nn.Module, scheduler: DDPMScheduler, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Samples of ``shape`` by DDIM in SAMPLING_STEPS steps, with the weights rounded as they are saved."""
    rounded = copy.deepcopy(model).bfloat16().float().eval()
    ddim: Any = DDIMScheduler.from_config(scheduler.config)
    ddim.set_timesteps(SAMPLING_STEPS)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    for t in ddim.timesteps:
        x = ddim.step(rounded(x, t.expand(len(x))).sample, t, x).prev_sample
    return x


def save_model(trained: Trained, scheduler: DDPMScheduler, folder: pathlib.Path, metadata: dict[str, Any]) -> None:
    """Write config.json, the weights in bfloat16, scheduler/ and metadata.json."""
    folder.mkdir(parents=True, exist_ok=True)
    model: Any = trained.model
    model.save_config(folder)
    scheduler.save_config(folder / "scheduler")
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    (folder / "metadata.json").write_text(json.dumps(metadata) + "\n", encoding="utf-8")


def run_facts(trained: Trained, recipe: Recipe, program: str) -> str:
    """Lines of a model card: how ``program`` of this folder made the weights."""
    threads = torch.get_num_threads()
    parameters = sum(value.numel() for value in trained.model.parameters())
    return "\n".join(
        (
            "| | |",
            "|---|---|",
            f"| parameters | {parameters:,}, stored as bfloat16 |",
            f"| command | `python examples/train/{program} --threads {threads}` |",
            f"| training | {recipe.steps} steps of {recipe.batch} samples, AdamW, learning rate up to "
            f"{recipe.learning_rate:g}, mean of weights {recipe.ema:g}, seed {recipe.seed} |",
            f"| time | {trained.minutes:.1f} minutes, threads: {threads}, {platform.machine()}, "
            f"PyTorch {torch.__version__} |",
            f"| loss | {trained.loss:.4f}, mean over the last tenth of the steps |",
        )
    )
