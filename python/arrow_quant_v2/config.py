"""Configuration of a quantization run.

:class:`DiffusionQuantConfig` is a frozen dataclass. Its keys, defaults and ranges come from the field table of the C++
core, so that Python, C++, the command line and docs/configuration.md always agree; every instance is valid.

Where a value comes from, the strongest first: keyword argument, environment variable, file, profile.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self, TypeVar

from arrow_quant_v2.config_env import environment_values
from arrow_quant_v2.config_fields import ConfigField, check_values, config_fields, flatten, profile_values, to_plain
from arrow_quant_v2.config_yaml import YamlMapping, dump_yaml, parse_yaml, read_yaml_file
from arrow_quant_v2.errors import ConfigurationError

__all__ = [
    "BoundarySmoothing",
    "ConfigField",
    "DiffusionQuantConfig",
    "ThermodynamicConfig",
    "ThermodynamicValidation",
    "TransitionOptimization",
    "config_fields",
]

ConfigT = TypeVar("ConfigT")


class ProfileDefault:
    """Marks a keyword that was left out; the profile's value takes its place."""

    def __repr__(self) -> str:
        return "<the profile's value>"


PROFILE_DEFAULT: Any = ProfileDefault()


class ReadOnlyDict(dict[str, int]):
    """A dict that cannot be changed, as the rest of a configuration cannot."""

    def refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Raise TypeError."""
        raise TypeError("a configuration cannot be changed; use with_overrides")

    __setitem__ = __delitem__ = __ior__ = refuse
    clear = pop = popitem = setdefault = update = refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return ReadOnlyDict, (dict(self),)


def suggest_keywords(cls: type[ConfigT]) -> type[ConfigT]:
    """Let an unknown keyword raise a ConfigurationError that names the nearest key, as it does in a file."""
    initialize = cls.__init__
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]

    @functools.wraps(initialize)
    def checked(self: ConfigT, *args: Any, **keywords: Any) -> None:
        for name in keywords.keys() - known:
            check_values({name: None})
        initialize(self, *args, **keywords)

    cls.__init__ = checked  # type: ignore[method-assign,assignment]
    return cls


class Section:
    """A nested part of the configuration; its keywords default to the values of the core's table."""

    section_name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        name = self.section_name
        checked = check_values(flatten(given_values(self), f"{name}."))
        for part in name.split("."):
            checked = checked[part]
        fill(self, checked)


@dataclass(frozen=True, kw_only=True)
class ThermodynamicValidation(Section):
    """Score of how smoothly parameters change from one time group to the next."""

    section_name: ClassVar[str] = "thermodynamic.validation"

    enabled: bool = PROFILE_DEFAULT
    smoothness_threshold: float = PROFILE_DEFAULT
    log_violations: bool = PROFILE_DEFAULT


@dataclass(frozen=True, kw_only=True)
class BoundarySmoothing(Section):
    """Interpolation of parameters across the boundary of two time groups."""

    section_name: ClassVar[str] = "thermodynamic.boundary_smoothing"

    enabled: bool = PROFILE_DEFAULT
    window_size: int = PROFILE_DEFAULT
    interpolation: str = PROFILE_DEFAULT


@dataclass(frozen=True, kw_only=True)
class TransitionOptimization(Section):
    """Penalty on jumps between neighbouring time groups."""

    section_name: ClassVar[str] = "thermodynamic.transition_optimization"

    enabled: bool = PROFILE_DEFAULT
    markov_weight: float = PROFILE_DEFAULT
    entropy_weight: float = PROFILE_DEFAULT
    learning_rate: float = PROFILE_DEFAULT
    max_iterations: int = PROFILE_DEFAULT
    convergence_threshold: float = PROFILE_DEFAULT
    beta_schedule: str = PROFILE_DEFAULT


@dataclass(frozen=True, kw_only=True)
class ThermodynamicConfig(Section):
    """Temporal smoothness; off by default."""

    section_name: ClassVar[str] = "thermodynamic"

    validation: ThermodynamicValidation = PROFILE_DEFAULT
    boundary_smoothing: BoundarySmoothing = PROFILE_DEFAULT
    transition_optimization: TransitionOptimization = PROFILE_DEFAULT


@suggest_keywords
@dataclass(frozen=True, kw_only=True, eq=False)
class DiffusionQuantConfig:
    """What a quantization run does; every key is described in docs/configuration.md.

    Keywords that are left out take the values of the profile named by ``deployment_profile``, "local" when that is left
    out too. Sizes are in MB of 1,000,000 bytes. Patterns are ECMAScript regular expressions, any case, found anywhere
    in a tensor's name. Instances are immutable and comparable; see :meth:`with_overrides`.

    Raises:
        ConfigurationError: A key is unknown (the nearest one is named), or a value has the wrong type or is out of its
            range (key, value and what is allowed are named).
    """

    deployment_profile: str = PROFILE_DEFAULT
    modality: str | None = PROFILE_DEFAULT
    bit_width: int = PROFILE_DEFAULT
    group_size: int = PROFILE_DEFAULT
    grid: str = PROFILE_DEFAULT
    fit: str = PROFILE_DEFAULT
    min_accuracy: float = PROFILE_DEFAULT
    seed: int = PROFILE_DEFAULT

    target_size_mb: float | None = PROFILE_DEFAULT
    target_model_size_mb: float | None = PROFILE_DEFAULT
    target_error: float | None = PROFILE_DEFAULT
    enable_mixed_precision: bool = PROFILE_DEFAULT
    layer_bit_widths: Mapping[str, int] = PROFILE_DEFAULT
    from_plan: str | None = PROFILE_DEFAULT

    components: Sequence[str] = PROFILE_DEFAULT
    variant: str | None = PROFILE_DEFAULT
    keep_patterns: Sequence[str] = PROFILE_DEFAULT
    quantize_patterns: Sequence[str] = PROFILE_DEFAULT
    transposed_patterns: Sequence[str] = PROFILE_DEFAULT
    skip_sensitive_layers: bool = PROFILE_DEFAULT
    sensitive_layer_names: Sequence[str] = PROFILE_DEFAULT
    sensitive_layer_patterns: Sequence[str] = PROFILE_DEFAULT
    on_nonfinite: str = PROFILE_DEFAULT

    strategy: str = PROFILE_DEFAULT
    rounding: str = PROFILE_DEFAULT
    rounding_order: str = PROFILE_DEFAULT
    rounding_rounds: int = PROFILE_DEFAULT
    dampening: float = PROFILE_DEFAULT

    calibration: str = PROFILE_DEFAULT
    calibration_samples: int = PROFILE_DEFAULT
    calibration_stages: int = PROFILE_DEFAULT
    allow_remote_code: bool = PROFILE_DEFAULT
    objective: str = PROFILE_DEFAULT

    enable_time_aware: bool = PROFILE_DEFAULT
    strategy_time_aware: str = PROFILE_DEFAULT
    num_time_groups: int = PROFILE_DEFAULT
    time_grouping: str = PROFILE_DEFAULT
    time_weighting: str | Sequence[float] = PROFILE_DEFAULT
    activation_block_early: int = PROFILE_DEFAULT
    activation_block_late: int = PROFILE_DEFAULT
    activation_range: str = PROFILE_DEFAULT
    activation_bits: int = PROFILE_DEFAULT

    enable_spatial: bool = PROFILE_DEFAULT
    strategy_spatial: str = PROFILE_DEFAULT
    equalization: str = PROFILE_DEFAULT
    smoothing: str = PROFILE_DEFAULT
    hadamard: str = PROFILE_DEFAULT

    fallback: bool = PROFILE_DEFAULT
    fail_fast: bool = PROFILE_DEFAULT
    strict: bool = PROFILE_DEFAULT

    num_threads: int = PROFILE_DEFAULT
    max_memory_limit_mb: float | None = PROFILE_DEFAULT

    thermodynamic: ThermodynamicConfig = PROFILE_DEFAULT

    enable_streaming: bool = PROFILE_DEFAULT
    enable_memory_aware_scheduling: bool = PROFILE_DEFAULT
    enable_entropy_adaptation: bool = PROFILE_DEFAULT
    use_arrow: bool = PROFILE_DEFAULT
    enable_simd: bool = PROFILE_DEFAULT
    simd_threshold: int = PROFILE_DEFAULT

    def __post_init__(self) -> None:
        fill(self, check_values(given_values(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DiffusionQuantConfig) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    @classmethod
    def from_profile(cls, name: str, **overrides: Any) -> Self:
        """Return the defaults of "edge", "local", "cloud" or "base", with some values replaced.

        Raises:
            ConfigurationError: There is no such profile, or as the constructor does.
        """
        return cls(**profile_values(name)).with_overrides(overrides)

    @classmethod
    def base_mode(cls) -> Self:
        """Return the configuration for any model, without diffusion logic; the profile "base"."""
        return cls.from_profile("base")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a configuration from keys and values; nested keys as mappings or as ``"a.b.c"``.

        Raises:
            ConfigurationError: As the constructor does.
        """
        return cls(**check_values(require_mapping(values)))

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> Self:
        """Read a YAML file of at most 1 MB.

        Raises:
            ConfigurationError: The file cannot be read, is not a YAML mapping, uses aliases or gives a key twice, or a
                key or value is wrong. It names the file, and the line where there is one.
        """
        return cls.resolve(path=path, environ={})

    @classmethod
    def from_yaml_text(cls, text: str) -> Self:
        """As :meth:`from_yaml`, from a text."""
        document = parse_yaml(text)
        return cls(**check_origins(document.values, line_origins(document, "")))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Make a configuration from ARROW_QUANT_* variables and the profile that they name ("local" when none).

        Args:
            environ: The variables; those of the process when left out.

        Raises:
            ConfigurationError: A value cannot be understood or is out of its range; names the variable and the value.
        """
        return cls.resolve(environ=environ)

    @classmethod
    def resolve(
        cls,
        *,
        profile: str | None = None,
        path: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Self:
        """Combine all sources: overrides win over the environment, that over the file, that over the profile.

        Args:
            profile: Whose defaults fill what nothing else gives: "edge", "local", "cloud" or "base". When left out, the
                one that the other sources name as deployment_profile, or "local".
            path: A YAML file.
            environ: ARROW_QUANT_* variables; those of the process when None.
            overrides: Keys and values, dotted or nested.

        Raises:
            ConfigurationError: As :meth:`from_yaml` and :meth:`from_env`.
        """
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        if path is not None:
            document = read_yaml_file(Path(path))
            values |= flatten(document.values)
            origins |= line_origins(document, str(Path(path)))
        set_values, variables = environment_values(environ)
        values |= set_values
        origins |= variables
        if profile is not None:
            values["deployment_profile"] = profile_values(profile)["deployment_profile"]
        changes = flatten(require_mapping(overrides or {}))
        origins = {name: origin for name, origin in origins.items() if name not in changes}
        return cls(**check_origins(values | changes, origins, profile or "", "" if path is None else str(Path(path))))

    def apply_env_overrides(self, environ: Mapping[str, str] | None = None) -> Self:
        """Return a copy in which ARROW_QUANT_* variables replace the values; see :meth:`from_env`."""
        values, origins = environment_values(environ)
        return type(self)(**check_origins(flatten(self.to_dict()) | values, origins))

    def with_overrides(self, overrides: Mapping[str, Any] | None = None, /, **keywords: Any) -> Self:
        """Return a copy with some values replaced; nested keys as mappings or as ``"a.b.c"``.

        Another ``deployment_profile`` changes that key alone, since all others have values already.

        Raises:
            ConfigurationError: As the constructor does.
        """
        changes = flatten(to_plain(require_mapping(overrides or {}))) | flatten(plain_values(keywords))
        return type(self)(**check_values(flatten(self.to_dict()) | changes))

    def to_dict(self) -> dict[str, Any]:
        """Return all keys in the table's order, nested ones as dicts: what JSON and YAML can hold."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain_values(named)

    def to_json(self) -> str:
        """Return all keys as JSON; equal configurations give equal text."""
        return json.dumps(self.to_dict())

    def to_yaml(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return all keys as YAML, written to `path` when given; :meth:`from_yaml` gives an equal configuration."""
        text = dump_yaml(self.to_dict())
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @property
    def size_budget_mb(self) -> float | None:
        """Size budget in MB: target_model_size_mb, the older name, where it is given, else target_size_mb."""
        return self.target_size_mb if self.target_model_size_mb is None else self.target_model_size_mb


SECTIONS: dict[str, type[Section]] = {
    "thermodynamic": ThermodynamicConfig,
    "validation": ThermodynamicValidation,
    "boundary_smoothing": BoundarySmoothing,
    "transition_optimization": TransitionOptimization,
}


def require_mapping(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `values`; ConfigurationError for anything but a mapping."""
    if isinstance(values, Mapping):
        return values
    raise ConfigurationError.compose(
        f"the configuration is a {type(values).__name__}, not a mapping", remedy="Give a dict."
    )


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON has them, sections as dicts."""
    plain = {}
    for name, value in values.items():
        if isinstance(value, Section):
            value = plain_values(given_values(value))
        plain[name] = to_plain(value)
    return plain


def given_values(instance: Any) -> dict[str, Any]:
    """Return the values that a constructor was given, as JSON has them."""
    named = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}
    return plain_values({name: value for name, value in named.items() if not isinstance(value, ProfileDefault)})


def fill(instance: Any, values: Mapping[str, Any]) -> None:
    """Set the fields of a frozen instance to checked values."""
    for field in dataclasses.fields(instance):
        value = values[field.name]
        if field.name in SECTIONS:
            section = object.__new__(SECTIONS[field.name])
            fill(section, value)
            value = section
        elif isinstance(value, dict):
            value = ReadOnlyDict(value)
        elif isinstance(value, list):
            value = tuple(value)
        object.__setattr__(instance, field.name, value)


def line_origins(document: YamlMapping, file: str) -> dict[str, str]:
    """Return by dotted key where it stands: "file:line"."""
    return {name: f"{file}:{line}" if file else f"line {line}" for name, line in document.lines.items()}


def check_origins(
    values: Mapping[str, Any], origins: Mapping[str, str], profile: str = "", file: str = ""
) -> dict[str, Any]:
    """Check values as check_values does; an error also says where the value at fault comes from.

    Args:
        values: Keys and values.
        origins: By dotted key, where it comes from.
        profile: Whose defaults fill the gaps.
        file: Named when no single key is at fault.
    """
    try:
        return check_values(values, profile)
    except ConfigurationError as error:
        origin = fault_origin(error, flatten(values), origins) or file
        raise located(error, origin) from None


def located(error: ConfigurationError, origin: str) -> ConfigurationError:
    """Return the same error, with its origin in front when there is one."""
    message = f"{origin}: {error.message}" if origin else error.message
    return ConfigurationError(message, file=origin, remedy=error.remedy)


def fault_origin(error: ConfigurationError, flat: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """Return where the key comes from that gives the same error alone; "" when there is none."""
    for name, value in flat.items():
        if name not in origins:
            continue
        try:
            check_values({name: value})
        except ConfigurationError as alone:
            if alone.message == error.message:
                return origins[name]
    return ""
