"""Directories, files and dangling links under the names that a run writes to: one line."""

import re

import pytest

from vicreg_jax.config import base_config, differences, to_json
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.workdir import held_workdir

FIELDS = to_json(base_config("vicreg"))
FILES = [
    ".lock",
    "report.html",
    "metrics.jsonl",
    "config.json.partial",
    "metrics.jsonl.partial",
    "summary.json.partial",
]


def refusal_of(workdir):
    with pytest.raises(InputError) as raised, held_workdir(workdir, FIELDS, differences):
        pass
    return str(raised.value)


@pytest.mark.parametrize(
    "name", [*FILES, "report.html.partial", "config.json", "summary.json", "wandb_id.txt", "profile.json"]
)
def test_directory_in_place_of_a_file(tmp_path, name):
    (tmp_path / name).mkdir()
    assert refusal_of(tmp_path) == (
        f"--workdir must hold no {name}, or a file of that name; got {str(tmp_path)!r}, where it is a directory "
        "(remove it or move it away)"
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["checkpoints", "damaged_checkpoints", "tensorboard", "wandb", "profile"])
def test_file_in_place_of_a_directory(tmp_path, name):
    (tmp_path / name).touch()
    assert f"no {name}, or a directory of that name; " in refusal_of(tmp_path)


@pytest.mark.parametrize("name", [*FILES, "checkpoints", "damaged_checkpoints"])
def test_dangling_link(tmp_path, name):
    (tmp_path / name).symlink_to(tmp_path / "nowhere" / "nothing")
    assert re.search(rf"no {name}, or .* where it is a link that leads nowhere", refusal_of(tmp_path))


def test_links_to_what_belongs_there_are_followed(tmp_path):
    for name in ("elsewhere", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "page.html").touch()
    (tmp_path / "run" / "damaged_checkpoints").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "run" / "report.html").symlink_to(tmp_path / "page.html")
    with held_workdir(tmp_path / "run", FIELDS, differences):
        pass
