"""Train a small UNet2DModel on handwritten digits: how examples/models/unet_digits was made.

    pip install scikit-learn   # for its copy of the digits alone
    python examples/train/train_unet.py

Its channels (24, 40, 56) are not divisible by 32, so that groups of weights end in the middle of a row.

Data: the 1797 digits of scikit-learn (BSD-3-Clause), a copy of the test set of Optical Recognition of Handwritten
Digits, E. Alpaydin and C. Kaynak 1998, UCI Machine Learning Repository, doi.org/10.24432/C50P49, CC BY 4.0.
"""

from __future__ import annotations

import importlib.util
import math
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from training import Batches, Recipe, make_scheduler, parse_arguments, run_facts, sample, save_model, train

MODELS = pathlib.Path(__file__).resolve().parent.parent / "models"
SIZE = 16
RECIPE = Recipe(steps=1000, batch=32, learning_rate=2e-3)
QUICK = Recipe(steps=3, batch=4, learning_rate=1e-3)

CARD = """# unet_digits

A `UNet2DModel` of diffusers that draws handwritten digits of {size} x {size} pixels from noise, without classes.
[examples/train/train_unet.py](../../train/train_unet.py) made it for tests, documents and `arrow-quant demo --model`.

![digits, 50 steps of DDIM](samples.png)

{facts}

Predicts noise; betas 1e-4 to 0.02, linear, 1000 steps. Drawn with DDIM in 50 steps.

Data: the 1797 digits of 8 x 8 pixels that scikit-learn carries (BSD-3-Clause), enlarged with small turns, shifts and
changes of size. They are the test set of Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998,
UCI Machine Learning Repository, <https://doi.org/10.24432/C50P49>, CC BY 4.0. The weights have the project's licence.
"""


def make_model() -> UNet2DModel:
    return UNet2DModel(
        sample_size=SIZE, in_channels=1, out_channels=1, layers_per_block=2, block_out_channels=(24, 40, 56),
        norm_num_groups=8, attention_head_dim=8, down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def digits_file() -> pathlib.Path:
    """Of the installed scikit-learn, which is not imported."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        sys.exit("There is no scikit-learn, whose digits are the data. Install it, or give --data digits.csv.gz.")
    return pathlib.Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def load_digits(path: pathlib.Path) -> torch.Tensor:
    """Rows of 64 pixels 0..16 and a class; [count, 1, 8, 8] in [-1, 1]."""
    table = np.loadtxt(path, delimiter=",", dtype=np.float32, ndmin=2)
    return torch.from_numpy(table[:, :64].reshape(-1, 1, 8, 8)) / 8 - 1


def varied(digits: torch.Tensor) -> Batches:
    """Batches of SIZE x SIZE: turned by up to 0.15 radians, 0.9 to 1.1 as large, shifted by up to half a pixel."""

    def batch(count: int, generator: torch.Generator) -> torch.Tensor:
        chosen = digits[torch.randint(0, len(digits), (count,), generator=generator)]
        angle, size, x, y = (2 * torch.rand(4, count, generator=generator) - 1).unbind()
        angle, size = angle * 0.15, 1 + 0.1 * size
        cos, sin = angle.cos() * size, angle.sin() * size
        rows = torch.stack((torch.stack((cos, -sin, x / 8), 1), torch.stack((sin, cos, y / 8), 1)), 1)
        grid = F.affine_grid(rows, [count, 1, SIZE, SIZE], align_corners=False)
        # Outside is 0, so that the background (-1) is moved there.
        enlarged = F.grid_sample(chosen + 1, grid, mode="bicubic", align_corners=False) - 1
        return enlarged.clamp(-1, 1)

    return batch


def save_pictures(pictures: torch.Tensor, path: pathlib.Path, columns: int = 8, zoom: int = 3) -> None:
    """Pictures [count, 1, height, width] in [-1, 1], in rows."""
    rows = [torch.cat(list(part[:, 0]), 1) for part in pictures.clamp(-1, 1).split(columns)]
    sheet = torch.cat(rows, 0)
    image = Image.fromarray(((sheet + 1) * 127.5).round().byte().numpy())
    image.resize((sheet.shape[1] * zoom, sheet.shape[0] * zoom), Image.Resampling.NEAREST).save(path)


def main() -> None:
    arguments = parse_arguments(__doc__ or "", "digits.csv.gz; default that of scikit-learn", MODELS / "unet_digits")
    torch.manual_seed(0)
    recipe = QUICK if arguments.quick else RECIPE
    digits = load_digits(arguments.data or digits_file())
    scheduler = make_scheduler()
    trained = train(make_model(), varied(digits), scheduler, recipe)
    save_model(trained, scheduler, arguments.out, {"modality": "image"})
    count = 8 * math.ceil(recipe.batch / 8)
    save_pictures(sample(trained.model, scheduler, (count, 1, SIZE, SIZE)), arguments.out / "samples.png")
    facts = run_facts(trained, recipe, "train_unet.py")
    (arguments.out / "README.md").write_text(CARD.format(size=SIZE, facts=facts), encoding="utf-8")
    print(f"{arguments.out}: loss {trained.loss:.4f}, {trained.minutes:.1f} minutes")


if __name__ == "__main__":
    main()
