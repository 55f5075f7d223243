"""Quantize a torch module that neither diffusers nor transformers knows, with activations from its own calls.

Usage: custom_module.py [OUT]. Replace Denoiser and calls() by what is yours.
"""

import json
import pathlib
import sys
import tempfile

import torch
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig
from arrow_quant_v2.calibration import time_boundaries
from arrow_quant_v2.torch import collect_activations, load_state_dict
from safetensors.torch import save_file
from torch import nn

STEPS = 1000  # times of a call lie in [0, STEPS]


class Denoiser(nn.Module):
    """Predicts the noise in points [batch, 16] at a timestep."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.time = nn.Linear(1, width)
        self.input = nn.Linear(16, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.output = nn.Linear(width, 16)

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        hidden = self.input(x) + self.time(timestep[:, None] / STEPS)
        for block in self.blocks:
            hidden = hidden + torch.tanh(block(hidden))
        return self.output(hidden)


def calls(count: int, seed: int):
    """Arguments of forward calls, as the sampler makes them."""
    generator = torch.Generator().manual_seed(seed)
    for i in range(count):
        t = torch.full((8,), (i + 0.5) * STEPS / count)
        yield {"x": torch.randn(8, 16, generator=generator), "timestep": t}


def main(output: pathlib.Path, folder: pathlib.Path) -> None:
    torch.manual_seed(0)
    model = Denoiser().eval()
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "metadata.json").write_text(json.dumps({"modality": "image"}))

    # The collector measures linear and convolution layers while the model runs.
    config = DiffusionQuantConfig(bit_width=4, group_size=32)
    collected = collect_activations(model, calls(32, seed=0), time_boundaries(STEPS, config.num_time_groups))
    result = ArrowQuantV2().quantize_diffusion_model(folder, output, config, collected)
    for layer in result["layers"]:
        print(f"{layer['name']:20} {layer['bits']} bits, {layer['method']}, output cosine {layer['output_cosine']:.5f}")
    for kept in result["kept"]:
        print(f"{kept['name']:20} kept: {kept['reason']}")

    quantized = Denoiser().eval()
    quantized.load_state_dict(load_state_dict(output))
    with torch.no_grad():
        pairs = [(model(**call), quantized(**call)) for call in calls(8, seed=1)]
    error = sum((a - b).square().sum() for a, b in pairs) / sum(a.square().sum() for a, _ in pairs)
    print(f"relative error of the whole model's output: {100 * error.sqrt():.2f} %")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else f"{folder}/quantized"), pathlib.Path(folder))
