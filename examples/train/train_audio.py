"""Train a small UNet1DModel on a speaking voice: how examples/models/unet1d_voice was made.

    python examples/train/train_audio.py

It makes waveforms of 4096 frames at 8 kHz, half a second with the spectrum and rhythm of speech. Its layers are
Conv1d, ConvTranspose1d and Linear; channels (16, 24, 32, 48, 64, 96).

Data: the Debian package asterisk-core-sounds-en-wav 1.6.1-1, 25 minutes of prompts spoken by Allison Smith,
CC BY-SA 3.0 (see copyright in the package), downloaded with apt-get where it is not installed.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import wave

import numpy as np
import torch
from diffusers import UNet1DModel

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from training import Batches, Recipe, make_scheduler, parse_arguments, run_facts, sample, save_model, train

MODELS = pathlib.Path(__file__).resolve().parent.parent / "models"
PACKAGE = "asterisk-core-sounds-en-wav"
INSTALLED = pathlib.Path("/usr/share/asterisk/sounds/en_US_f_Allison")
CACHE = pathlib.Path.home() / ".cache" / "arrow-quant-training"

RATE = 8000
FRAMES = 4096
# Windows for training are shorter, which is faster; convolutions do not care.
WINDOW = 2048
QUIET = 0.03  # root mean square of windows that are left out
RECIPE = Recipe(steps=600, batch=8, learning_rate=2.5e-3)
QUICK = Recipe(steps=2, batch=2, learning_rate=1e-3)

CARD = """# unet1d_voice

A `UNet1DModel` of diffusers that makes half a second of a speaking voice from noise: waveforms of {frames} frames at
{rate} Hz, [batch, 1, {frames}] in [-1, 1]. It has the spectrum and the syllables' rhythm of speech, but
no words. Made by
[examples/train/train_audio.py](../../train/train_audio.py) for tests, documents and `arrow-quant demo --model`.

[samples.wav](samples.wav) holds four sounds, 50 steps of DDIM.

{facts}

Predicts the clean sound; betas 1e-4 to 0.02, linear, 1000 steps. Trained on windows of {window} frames of prompts
whose peak is 1.

Data: Asterisk core sounds, English, spoken by Allison Smith (<http://www.theivrvoice.com>), financed by Digium, Inc.,
from the Debian package {package} 1.6.1-1, source
<http://downloads.asterisk.org/pub/telephony/asterisk/>. Copyright 2003-2010 Allison Smith, CC BY-SA 3.0,
<https://creativecommons.org/licenses/by-sa/3.0/>. The sounds were changed: cut, scaled, and a model was trained on
them. The weights and samples.wav in this folder are under the same licence, CC BY-SA 3.0.
"""


def make_model() -> UNet1DModel:
    channels = (16, 24, 32, 48, 64, 96)
    return UNet1DModel(
        sample_size=FRAMES, sample_rate=RATE, in_channels=1, out_channels=1, block_out_channels=channels,
        down_block_types=("DownResnetBlock1D",) * len(channels),
        up_block_types=("UpResnetBlock1D",) * (len(channels) - 1), mid_block_type="MidResTemporalBlock1D",
        out_block_type="OutConv1DBlock", act_fn="mish", time_embedding_type="positional",
        use_timestep_embedding=True, flip_sin_to_cos=False, freq_shift=1,
    )  # fmt: skip


def sounds_folder() -> pathlib.Path:
    """Of the installed package, else of one that is downloaded and unpacked, which needs Debian or Ubuntu."""
    unpacked = CACHE / INSTALLED.relative_to("/")
    for folder in (INSTALLED, unpacked):
        if folder.is_dir():
            return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", PACKAGE], cwd=CACHE, check=True)
    (package,) = CACHE.glob(f"{PACKAGE}_*.deb")
    subprocess.run(["dpkg-deb", "-x", package, CACHE], check=True)
    return unpacked


def load_sounds(folder: pathlib.Path) -> list[torch.Tensor]:
    """Each file's frames [n], its peak 1; 16-bit mono WAV at RATE, in the order of names."""
    sounds = []
    for path in sorted(folder.rglob("*.wav")):
        with wave.open(str(path), "rb") as file:
            if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
                sys.exit(f"{path}: not 16-bit mono at {RATE} Hz")
            frames = torch.from_numpy(np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32))
        if len(frames) >= WINDOW and frames.abs().max() > 0:
            sounds.append(frames / frames.abs().max())
    return sounds


def windows_of(sounds: list[torch.Tensor]) -> Batches:
    """Batches [count, 1, WINDOW] from anywhere in the sounds, without pauses."""
    voice = torch.cat(sounds)
    energy = torch.cat((torch.zeros(1, dtype=torch.float64), voice.double().square().cumsum(0)))
    starts = ((energy[WINDOW:] - energy[:-WINDOW]) / WINDOW > QUIET**2).nonzero()[:, 0]
    places = torch.arange(WINDOW)

    def batch(count: int, generator: torch.Generator) -> torch.Tensor:
        chosen = starts[torch.randint(0, len(starts), (count,), generator=generator)]
        return voice[chosen[:, None] + places][:, None]

    return batch


def save_sound(frames: torch.Tensor, path: pathlib.Path) -> None:
    """Frames [n] in [-1, 1] as 16-bit mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((frames.clamp(-1, 1) * 32767).round().numpy().astype("<i2").tobytes())


def main() -> None:
    arguments = parse_arguments(
        __doc__ or "", f"a folder of WAV files; default those of {PACKAGE}", MODELS / "unet1d_voice"
    )
    torch.manual_seed(0)
    recipe = QUICK if arguments.quick else RECIPE
    sounds = load_sounds(arguments.data or sounds_folder())
    scheduler = make_scheduler("sample")
    trained = train(make_model(), windows_of(sounds), scheduler, recipe)
    save_model(trained, scheduler, arguments.out, {"modality": "audio"})
    made = sample(trained.model, scheduler, (1 if arguments.quick else 4, 1, FRAMES))
    save_sound(made.flatten(), arguments.out / "samples.wav")
    facts = run_facts(trained, recipe, "train_audio.py")
    card = CARD.format(frames=FRAMES, rate=RATE, window=WINDOW, package=PACKAGE, facts=facts)
    (arguments.out / "README.md").write_text(card, encoding="utf-8")
    print(f"{arguments.out}: loss {trained.loss:.4f}, {trained.minutes:.1f} minutes")


if __name__ == "__main__":
    main()
