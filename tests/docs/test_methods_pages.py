"""The pages on losses, methods and adding a method agree with the code; the example with two modalities learns."""

import ast
import inspect
import re
import runpy
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from vicreg_jax import losses
from vicreg_jax.config import check_config, pretrain_table
from vicreg_jax.methods import METHODS
from vicreg_jax.tasks.pretrain.build import build_method
from vicreg_jax.tasks.registry import table_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LOSSES = (DOCS / "guides/losses.md").read_text()
OVERVIEW = (DOCS / "methods/index.md").read_text()
VARIATIONS = (DOCS / "methods/variations.md").read_text()
ADDING = (DOCS / "guides/add_a_method.md").read_text()


@pytest.mark.slow
def test_two_modalities_find_each_other(tmp_path):
    main = runpy.run_path(str(DOCS / "examples/two_modalities.py"))["main"]
    images, traces, first, in_five = main(steps=20, data_dir=str(tmp_path))
    assert min(images, traces) > 0.9
    # Chance is 1 and 5 in 360.
    assert first > 0.1
    assert in_five > 0.4


@pytest.mark.parametrize("name", [name for name in losses.__all__ if name.endswith("_loss")])
def test_every_loss_has_a_page_and_its_defaults_in_the_guide(name):
    page = f"../methods/{name.removesuffix('_loss').removeprefix('multi_view_')}.md"
    (row,) = [line for line in LOSSES.splitlines() if line.startswith(f"| [`{name}`]({page}")]
    assert (DOCS / "guides" / page).exists()
    stated = {argument: ast.literal_eval(default) for argument, default in re.findall(r"`(\w+)=([^`]+)`", row)}
    arguments = inspect.signature(getattr(losses, name)).parameters.values()
    defaults = {a.name: a.default for a in arguments if a.default is not a.empty}
    assert {"where": None, "axis_name": None, **stated} == defaults


def rows(header):
    """The cells of the rows of the tables that begin with that header."""
    tables = re.findall(rf"^\| {re.escape(header)} .*\n\|[-|]+\n((?:\|.*\n)+)", OVERVIEW, flags=re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")[1:-1]] for table in tables for row in table.splitlines()]


def test_every_method_is_in_the_overview():
    table = {cells[0]: cells for cells in rows("name | class")}
    assert list(table) == [f"`{name}`" for name in METHODS]
    for name, method in METHODS.items():
        assert table[f"`{name}`"][1] == f"`{method.__name__}`"
    in_head_table = " ".join(cells[0] for cells in rows("name | head,"))
    assert sorted(re.findall(r"`(\w+)`", in_head_table)) == sorted(METHODS)


def test_overview_has_every_field_with_its_default():
    stated = {
        cells[0]: {field: ast.literal_eval(default) for field, default in re.findall(r"`(\w+)=([^`]+)`", cells[1])}
        for cells in rows("name | fields")
    }
    fields = {
        f"`{name}`": {
            field.removeprefix("method."): entry.default
            for field, entry in pretrain_table(name).items()
            if field.startswith("method.") and field != "method.name"
        }
        for name in METHODS
    }
    assert stated == fields


def command_lines():
    """Those of both pages; switches that stand alone are put behind a config that has them."""
    pages = OVERVIEW + VARIATIONS
    lines = re.findall(r"^python launch\.py (.*)", pages, flags=re.MULTILINE)
    for line in re.findall(r"`(--config[^`]*)`", pages):
        if line.startswith("--config."):
            line = f"--config=configs/imagenet/{'vicreg' if 'shared' in line else 'byol'}.py {line}"
        if not line.endswith(("FIELD", "...")):
            lines.append(line)
    return lines


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections
@pytest.mark.parametrize("line", command_lines())
def test_command_lines_are_accepted(line, monkeypatch):
    arguments = [argument for argument in line.split() if not argument.startswith("--workdir")]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["launch.py", *arguments])  # where ml_collections looks for overrides
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    assert values(sys.argv) == ["launch.py"]
    check_config(values.config, table_of(values.config))
    build_method(values.config)


def test_page_on_adding_a_method_has_all_of_triplet():
    page = "".join(re.findall(r"^```python\n# vicreg_jax/methods/triplet\.py\n(.*?)^```", ADDING, flags=re.M | re.S))
    file = (ROOT / "vicreg_jax/methods/triplet.py").read_text()
    assert [line for line in page.splitlines() if line] == [line for line in file.splitlines() if line]
