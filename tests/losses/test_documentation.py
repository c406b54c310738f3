"""The losses' pages: their examples run, and the index states every loss with the defaults that it has."""

import ast
import doctest
import inspect
import re
from pathlib import Path

import pytest

from vicreg_jax import losses

PAGES = Path(__file__).parents[2] / "docs" / "losses"


@pytest.mark.parametrize("page", sorted(path.name for path in PAGES.glob("*.md")))
def test_examples(page):
    result = doctest.testfile(str(PAGES / page), module_relative=False)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", [name for name in losses.__all__ if name.endswith("_loss")])
def test_index_has_page_and_defaults_of_every_loss(name):
    link = f"[`{name}`]({name.removesuffix('_loss')}.md)"
    (row,) = [line for line in (PAGES / "README.md").read_text().splitlines() if line.startswith(f"| {link}")]
    assert (PAGES / f"{name.removesuffix('_loss')}.md").exists()
    stated = {argument: ast.literal_eval(default) for argument, default in re.findall(r"`(\w+)=([^`]+)`", row)}
    arguments = inspect.signature(getattr(losses, name)).parameters.values()
    defaults = {a.name: a.default for a in arguments if a.default is not a.empty}
    assert {"axis_name": None, **stated} == defaults
