"""What `docs/examples` and `docs/methods` say: the example learns, and the pages agree with the code."""

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from vicreg_jax.config import check_config, method_section
from vicreg_jax.methods import METHODS
from vicreg_jax.tasks.pretrain.build import build_method

ROOT = Path(__file__).parents[1]
OVERVIEW = (ROOT / "docs/methods/README.md").read_text()
ADDING = (ROOT / "docs/methods/adding_a_method.md").read_text()


@pytest.mark.slow
def test_two_modalities_find_each_other(tmp_path):
    main = runpy.run_path(str(ROOT / "docs/examples/two_modalities.py"))["main"]
    images, traces, first, in_five = main(steps=20, data_dir=str(tmp_path))
    assert min(images, traces) > 0.9
    # Chance is 1 and 5 in 360.
    assert first > 0.1
    assert in_five > 0.4


def rows(header):
    """The cells of the rows of the tables that begin with that header."""
    tables = re.findall(rf"^\| {re.escape(header)} .*\n\|[-|]+\n((?:\|.*\n)+)", OVERVIEW, flags=re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")[1:-1]] for table in tables for row in table.splitlines()]


def test_every_method_is_in_the_overview():
    table = {cells[0]: cells for cells in rows("name | class")}
    assert list(table) == [f"`{name}`" for name in METHODS]
    for name, method in METHODS.items():
        assert table[f"`{name}`"][1] == f"`{method.__name__}`"
    of_heads = " ".join(cells[0] for cells in rows("name | head,"))
    assert sorted(re.findall(r"`(\w+)`", of_heads)) == sorted(METHODS)


def test_overview_has_every_field_with_its_default():
    stated = {
        cells[0]: {field: ast.literal_eval(default) for field, default in re.findall(r"`(\w+)=([^`]+)`", cells[1])}
        for cells in rows("name | fields")
    }
    fields = {f"`{name}`": method_section(name).to_dict() for name in METHODS}
    for section in fields.values():
        del section["name"]
    assert stated == fields


def command_lines():
    """The overview's; switches that stand alone are put behind a config that has them."""
    lines = re.findall(r"^    python launch\.py (.*)", OVERVIEW, flags=re.MULTILINE)
    for line in re.findall(r"`(--config[^`]*)`", OVERVIEW):
        if line.startswith("--config."):
            line = f"--config=configs/imagenet/{'vicreg' if 'shared' in line else 'byol'}.py {line}"
        if not line.endswith(("FIELD", "...")):
            lines.append(line)
    return lines


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections
@pytest.mark.parametrize("line", command_lines())
def test_command_lines_of_the_overview_are_accepted(line, monkeypatch):
    arguments = [argument for argument in line.split() if not argument.startswith("--workdir")]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["launch.py", *arguments])  # where ml_collections looks for what is overridden
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    assert values(sys.argv) == ["launch.py"]
    check_config(values.config)
    build_method(values.config)


def blocks():
    """The page's code by file."""
    found = {}
    for path, block in re.findall(r"^```python\n# (\S+)\n(.*?)^```", ADDING, flags=re.MULTILINE | re.DOTALL):
        found.setdefault(path, []).append(block)
    return found


def test_page_on_adding_a_method_has_all_of_triplet():
    page = "".join(blocks()["vicreg_jax/methods/triplet.py"])
    file = (ROOT / "vicreg_jax/methods/triplet.py").read_text()
    assert [line for line in page.splitlines() if line] == [line for line in file.splitlines() if line]


def test_page_on_adding_a_method_has_code_that_is_there():
    assert sum(map(len, blocks().values())) == ADDING.count("```python")
    for path, code in blocks().items():
        for block in code:
            assert f"\n{block}" in "\n" + (ROOT / path).read_text()
