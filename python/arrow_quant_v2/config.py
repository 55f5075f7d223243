"""How a model is quantized."""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
from typing import Any

import yaml

from arrow_quant_v2.errors import ConfigurationError

MODALITIES = ("text", "code", "image", "audio")
GROUP_SIZES = (16, 32, 64, 128, 256, -1)

_PROFILES: dict[str, dict[str, Any]] = {
    "edge": {"bit_width": 2, "group_size": 256, "min_accuracy": 0.65},
    "local": {"bit_width": 4, "group_size": 128, "min_accuracy": 0.85},
    "cloud": {"bit_width": 8, "group_size": 64, "min_accuracy": 0.95},
}


@dataclasses.dataclass(frozen=True)
class DiffusionQuantConfig:
    """Options of one run; checked when made. Raises ConfigurationError naming key, value and what is allowed.

    Attributes:
        bit_width: 2, 3, 4 or 8.
        group_size: weights of one output channel that share a scale; 16, 32, 64, 128, 256, or -1 for the whole row.
        modality: "text", "code", "image", "audio", or None to find it in the model.
        min_accuracy: least cosine between a layer's weights and their quantized values, in [0, 1].
        fallback: give a layer below min_accuracy more bits (4, then 8, then none).
        fail_fast: raise at the first layer below min_accuracy instead.
        fit: "min_max", "fitted" (least squares), or "auto": min_max, which kept pictures and text better at every
            width where activations are not known.
        on_nonfinite: "error" or "keep" (the tensor stays as it is) for NaN and Inf.
        num_threads: 0 for all CPUs of this process.
        keep_patterns, quantize_patterns: regular expressions on tensor names that add to and take from the keep list.
        transposed_patterns: regular expressions for transposed convolutions, whose output channels are axis 1.
        components: parts of a pipeline to quantize; empty for its denoisers.
        variant: file variant, for example "fp16".
    """

    bit_width: int = 4
    group_size: int = 128
    modality: str | None = None
    min_accuracy: float = 0.85
    deployment_profile: str = "local"
    fallback: bool = True
    fail_fast: bool = False
    fit: str = "auto"
    on_nonfinite: str = "error"
    num_threads: int = 0
    keep_patterns: tuple[str, ...] = ()
    quantize_patterns: tuple[str, ...] = ()
    transposed_patterns: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    variant: str | None = None

    def __post_init__(self) -> None:
        for name in ("keep_patterns", "quantize_patterns", "transposed_patterns", "components"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
                _refuse(name, value, "a list of strings")
            object.__setattr__(self, name, tuple(value))
        self._check_choice("bit_width", (2, 3, 4, 8))
        self._check_choice("group_size", GROUP_SIZES)
        self._check_choice("modality", (None, *MODALITIES))
        self._check_choice("deployment_profile", tuple(_PROFILES))
        self._check_choice("fit", ("auto", "min_max", "fitted"))
        self._check_choice("on_nonfinite", ("error", "keep"))
        self._check_choice("fallback", (True, False))
        self._check_choice("fail_fast", (True, False))
        if isinstance(self.min_accuracy, bool) or not isinstance(self.min_accuracy, (int, float)):
            _refuse("min_accuracy", self.min_accuracy, "a number in [0, 1]")
        if not 0 <= self.min_accuracy <= 1:
            _refuse("min_accuracy", self.min_accuracy, "a number in [0, 1]")
        if isinstance(self.num_threads, bool) or not isinstance(self.num_threads, int) or self.num_threads < 0:
            _refuse("num_threads", self.num_threads, "a whole number, 0 for all CPUs")
        if self.variant is not None and not isinstance(self.variant, str):
            _refuse("variant", self.variant, "a string")

    def _check_choice(self, name: str, allowed: tuple[Any, ...]) -> None:
        value = getattr(self, name)
        if not any(type(value) is type(choice) and value == choice for choice in allowed):
            _refuse(name, value, "one of " + ", ".join(str(choice) for choice in allowed))

    @classmethod
    def from_profile(cls, profile: str, **overrides: Any) -> DiffusionQuantConfig:
        """Defaults of "edge" (2 bits), "local" (4) or "cloud" (8), with keyword arguments on top."""
        if profile not in _PROFILES:
            _refuse("deployment_profile", profile, "one of " + ", ".join(_PROFILES))
        return cls.from_dict({**_PROFILES[profile], "deployment_profile": profile, **overrides})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DiffusionQuantConfig:
        """From a mapping; an unknown key is an error that suggests the nearest one."""
        names = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.0)
                raise ConfigurationError(
                    f"unknown key '{key}'. Did you mean '{near[0]}'?", code="configuration", remedy=f"Use '{near[0]}'."
                )
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: str | pathlib.Path) -> DiffusionQuantConfig:
        """From a YAML file with a mapping of keys; a profile in it gives the defaults of the others."""
        try:
            values = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigurationError(f"{path}: cannot be read as YAML: {error}", file=str(path)) from error
        if not isinstance(values, dict):
            raise ConfigurationError(f"{path}: is not a mapping of keys to values", file=str(path))
        profile = values.get("deployment_profile", "local")
        defaults = _PROFILES.get(profile, {}) if isinstance(profile, str) else {}
        return cls.from_dict({**defaults, **values})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, lists in place of tuples."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def to_yaml(self, path: str | pathlib.Path) -> None:
        """Write what from_yaml reads."""
        pathlib.Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")

    def replace(self, **overrides: Any) -> DiffusionQuantConfig:
        """A copy with some values changed."""
        return self.from_dict({**self.to_dict(), **overrides})


def _refuse(key: str, value: object, allowed: str) -> None:
    raise ConfigurationError(f"{key} is {value!r}. Use {allowed}.", code="configuration", remedy=f"Use {allowed}.")
