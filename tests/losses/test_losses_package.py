import doctest
import subprocess
import sys
from functools import partial
from pathlib import Path

import vicreg_jax.losses.vicreg

ROOT = Path(__file__).parents[2]
IMPORT = """
import sys, time
import jax
before, start = set(sys.modules), time.perf_counter()
import vicreg_jax.losses
seconds = time.perf_counter() - start
others = {name.partition(".")[0] for name in set(sys.modules) - before}
print(seconds, *sorted(others - {"jax", "vicreg_jax"} - set(sys.stdlib_module_names)))
"""


def test_import_needs_jax_alone_and_no_time():
    command = [sys.executable, "-c", IMPORT]
    run = partial(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=True)
    runs = [run().stdout.split() for _ in range(2)]
    assert runs[0][1:] == []
    assert min(float(run[0]) for run in runs) <= 0.1


def test_docstring_examples():
    result = doctest.testmod(vicreg_jax.losses.vicreg)
    assert result.attempted >= 8
    assert result.failed == 0


def test_documentation_examples():
    result = doctest.testfile(str(ROOT / "docs" / "losses.md"), module_relative=False)
    assert result.attempted > 0
    assert result.failed == 0
