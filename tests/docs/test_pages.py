"""Every page runs what it shows: doctests, blocks marked as `python run`, and excerpts of the project's files."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```python([^\n]*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
# Each of these takes several seconds to compile.
SLOW = {
    "docs/guides/add_a_loss.md",
    "docs/guides/add_an_augmentation.md",
    "docs/guides/augmentation.md",
    "docs/methods/byol.md",
    "docs/methods/triplet.md",
    "docs/guides/evaluation.md",
    "docs/guides/weights.md",
    "docs/guides/write_your_own_method.md",
    "docs/guides/your_own_loop.md",
    "docs/methods/corinfomax.md",
    "docs/methods/debiased_contrastive.md",
    "docs/methods/frossl.md",
    "docs/methods/info_nce.md",
    "docs/methods/locoprop.md",
    "docs/methods/sigreg.md",
    "docs/methods/smt.md",
    "docs/methods/smt_and_vicreg.md",
    "docs/methods/variations.md",
    "docs/methods/visreg.md",
    "docs/results/batch_size.md",
}


def blocks(page):
    """The Python blocks of a page, each as (what stands after `python`, code)."""
    return [(marks.split(), code) for marks, code in FENCE.findall(page.read_text())]


def parametrize(pages):
    names = [str(page.relative_to(ROOT)) for page in pages]
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in names]
    )


@parametrize(page for page in PAGES if any(">>> " in code for _, code in blocks(page)))
def test_doctests(name):
    result = doctest.testfile(str(ROOT / name), module_relative=False)
    assert result.attempted > 0
    assert result.failed == 0


@parametrize(page for page in PAGES if any("run" in marks for marks, _ in blocks(page)))
def test_marked_blocks(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for marks, code in blocks(ROOT / name):
        if "run" in marks:
            exec(compile(code, name, "exec"), namespace)


@parametrize(page for page in PAGES if any(code.startswith("# ") for _, code in blocks(page)))
def test_excerpts_are_in_their_files(name):
    for _, code in blocks(ROOT / name):
        path, _, excerpt = code.removeprefix("# ").partition("\n")
        if code.startswith("# ") and (ROOT / path).is_file():
            assert f"\n{excerpt.rstrip()}\n" in "\n" + (ROOT / path).read_text(), f"{path} has no\n{excerpt}"
