"""`python -m vicreg_jax.compare`: workdirs to one page, bad input to one line."""

import doctest
import json

import pytest

from vicreg_jax import compare
from vicreg_jax.config import base_config, to_json


@pytest.fixture
def workdirs(tmp_path):
    for index in range(3):
        workdir = tmp_path / "runs" / f"seed_{index}"
        workdir.mkdir(parents=True)
        config = base_config()
        config.seed = index
        (workdir / "config.json").write_text(json.dumps(to_json(config)))
        rows = [{"step": step, "epoch": step / 2, "loss": 3.0 - step} for step in (1, 2)]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if index:
            summary = {"knn_accuracy": None, "label_free": {"rankme": 7.25, "lidar": 3.0, "alpha_req": None}}
            (workdir / "summary.json").write_text(json.dumps(summary))
    return [str(workdir) for workdir in sorted((tmp_path / "runs").iterdir())]


def test_page(workdirs, tmp_path, capsys):
    output = tmp_path / "page.html"
    assert compare.main([*workdirs, workdirs[0], f"--output={output}"]) == 0
    assert capsys.readouterr().out == f"3 runs are compared in {output}\n"
    page = output.read_text()
    for piece in ("Comparison of 3 runs", "seed_2", "7.25", "<td>not complete</td>", '<th scope="row">seed</th>'):
        assert piece in page, piece


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "the following arguments are required: RUN; see --help"),
        (
            ("{0}", "{0}/nothing"),
            "RUN must be the workdir of a run, with config.json and metrics.jsonl; got '{0}/nothing'",
        ),
        (("{0}", "--output={0}"), "--output must be a file in a directory that exists; got '{0}'"),
        (("{0}", "--outputs=a"), "unrecognized arguments: --outputs=a; see --help"),
    ],
)
def test_bad_input_is_one_line(workdirs, capsys, arguments, says):
    assert compare.main([argument.format(*workdirs) for argument in arguments]) == 2
    assert capsys.readouterr().err == f"error: {says.format(*workdirs)}\n"


def test_docstring_examples():
    assert doctest.testmod(compare).failed == 0
