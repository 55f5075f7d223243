"""Every program in examples/ runs without arguments and prints what it says."""

from __future__ import annotations

import pathlib
import runpy
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"
PRINTS = {
    "custom_module.py": ["4 bits, ldlq", "relative error of the whole model's output"],
    "diffusers_pipeline.py": ["x smaller", "PSNR of pictures from the same noise"],
    "masked_language_model.py": ["layers at 4 bits", "most likely token differs"],
}
ELSEWHERE = {"numpy_only.py", "read_with_pyarrow.py", "tiny_models.py"}  # below, test_format.py, used by the others


def test_each_example_has_a_test():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*PRINTS, *ELSEWHERE}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", PRINTS)
def test_example_runs(name, monkeypatch, capsys):
    """In this process, which has imported PyTorch already."""
    pytest.importorskip("torch")
    monkeypatch.setattr(sys, "argv", [name])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    output = capsys.readouterr().out
    assert all(text in output for text in PRINTS[name]), output


def test_numpy_alone_is_enough():
    """In a process of its own, to see that it imports no PyTorch."""
    code = """\
import runpy, sys
path, sys.argv = sys.argv[1], ["numpy_only.py"]
runpy.run_path(path, run_name="__main__")
assert "torch" not in sys.modules
"""
    command = [sys.executable, "-c", code, str(EXAMPLES / "numpy_only.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "passed: True" in done.stdout
    assert "with the inputs' second moment" in done.stdout
