"""PyTorch's side, which runs in an environment of its own: see `test_with_torch.py`."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

PYTHON = os.environ.get("TORCH_PYTHON", sys.executable)
SCRIPT = Path(__file__).with_name("in_torch.py")


@functools.cache
def has(packages):
    command = [PYTHON, "-c", f"import {packages}"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def torch_python():
    """Runs that Python with arguments, in a directory, and returns what it prints."""

    def run(*arguments, packages="torch, torchvision, timm, safetensors", cwd=SCRIPT.parent):
        if not has(packages):
            pytest.skip(f"not installed (TORCH_PYTHON): {packages}")
        command = [PYTHON, *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture(scope="session")
def in_torch(torch_python):
    """Runs a function of `in_torch.py`."""
    return functools.partial(torch_python, SCRIPT)
