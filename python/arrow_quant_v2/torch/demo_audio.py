"""The demo's sounds: WAV files, a picture of spectrograms, and the log-spectral distance."""

from __future__ import annotations

import pathlib
import wave
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from arrow_quant_v2.torch.evaluation.sound import log_spectral_distance

PICTURE = "spectrograms.png"
DEFAULT_RATE = 16000  # where config.json tells none
_GAP_S = 0.1  # of silence between sounds
_WINDOW, _HOP = 256, 64
_FLOOR_DB = -80.0


class SoundDemo:
    """Of a model that makes sounds at ``rate`` Hz."""

    figure, column, made = "log_spectral_distance_db", "LSD dB", "sounds"
    count = (2, 4)

    def __init__(self, rate: int | None) -> None:
        self._rate = rate or DEFAULT_RATE

    def distance(self, want: torch.Tensor, got: torch.Tensor) -> float:
        return float(log_spectral_distance(want, got).mean())

    def save(self, samples: dict[str, torch.Tensor], output: pathlib.Path) -> str:
        tracks = {name: one_after_the_other(sounds, self._rate) for name, sounds in samples.items()}
        for name, track in tracks.items():
            save_wav(track, self._rate, output / f"{name.lower()}.wav")
        save_spectrograms(tracks, self._rate, output / PICTURE)
        files = ", ".join(f"{name.lower()}.wav" for name in tracks)
        return f"{output}: {files}, sounds from the same noise; {PICTURE}, from top to bottom {', '.join(tracks)}"


def one_after_the_other(sounds: torch.Tensor, rate: int) -> torch.Tensor:
    """Sounds [count, channels, frames] as one, [channels, frames], with short pauses."""
    gap = torch.zeros(sounds.shape[1], round(_GAP_S * rate))
    parts = [part for sound in sounds for part in (sound, gap)]
    return torch.cat(parts[:-1], 1)


def save_wav(sound: torch.Tensor, rate: int, path: pathlib.Path) -> None:
    """A sound [channels, frames] in [-1, 1] as 16-bit PCM."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(sound.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound.T.clamp(-1, 1) * 32767).round().numpy().astype("<i2").tobytes())


def save_spectrograms(tracks: dict[str, torch.Tensor], rate: int, path: pathlib.Path) -> None:
    """One row for each sound [channels, frames]: power in dB of the loudest place of the first, time to the right."""
    powers = {name: _power(track) for name, track in tracks.items()}
    loudest = float(next(iter(powers.values())).max()) or 1.0
    figure = Figure((10, 1.6 * len(tracks)), layout="constrained")
    rows = figure.subplots(len(tracks), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, power) in zip(rows, powers.items(), strict=True):
        seconds = tracks[name].shape[1] / rate
        levels = 10 * np.log10(np.maximum(power / loudest, 10 ** (_FLOOR_DB / 10)))
        image = axes.imshow(
            levels, origin="lower", aspect="auto", extent=(0, seconds, 0, rate / 2000), vmin=_FLOOR_DB, vmax=0
        )
        axes.set_ylabel(f"{name}\nkHz")
    rows[-1].set_xlabel("s")
    figure.colorbar(image, ax=list(rows), label="dB")
    figure.savefig(path, dpi=100)


def _power(track: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Power spectra of the channels' mean, [frequencies, windows]."""
    window = torch.hann_window(_WINDOW, dtype=torch.float64)
    spectrum = torch.stft(track.double().mean(0), _WINDOW, _HOP, window=window, return_complex=True)
    return spectrum.abs().square().numpy()
