"""Fuzz the reading of YAML configurations with atheris; takes libFuzzer's arguments.

usage: fuzz_config_yaml.py [-runs=N] [-max_total_time=SECONDS] [CORPUS_DIR ...]

A text either gives a configuration that is written and read back to an equal one, or a ConfigurationError. Anything
else ends the run as a crash.
"""

from __future__ import annotations

import sys
import zlib

import atheris

# Only what reads the text is instrumented: PyYAML and the package's own modules.
with atheris.instrument_imports(include=["yaml", "arrow_quant_v2.config_yaml", "arrow_quant_v2.config"]):
    import yaml  # noqa: F401
    from arrow_quant_v2 import ConfigurationError, DiffusionQuantConfig


def check(data: bytes) -> None:
    """Read a text, and what is written of its configuration."""
    text = data.decode("utf-8", "replace")
    try:
        config = DiffusionQuantConfig.from_yaml_text(text)
    except ConfigurationError as error:
        if not error.message:
            raise RuntimeError("an error must say something") from error
        return
    # Writing takes much longer than refusing a text, so that some have to stand for all.
    if zlib.crc32(data) % 16 == 0:
        assert DiffusionQuantConfig.from_yaml_text(config.to_yaml()) == config


def main() -> None:
    """Run libFuzzer over check()."""
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
