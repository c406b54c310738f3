"""`config.task=export`: the export of a workdir, or one line."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.runs import ROOT
from tests.small_encoder import make_encoder, small_config
from vicreg_jax import load_encoder
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.export import export

LOOP = """
import sys
from tests.small_encoder import make_encoder
encoder = make_encoder()
print("exporting", flush=True)
while True:
    encoder.export(sys.argv[1])
"""


@pytest.fixture
def workdir(tmp_path):
    """An encoder, as a workdir holds one."""
    return make_encoder().export(tmp_path / "run")


def test_export_of_a_workdir(workdir, capsys):
    for _ in range(2):
        export(small_config(), workdir)
        assert f"the encoder is in {workdir}/export" in capsys.readouterr().out
        assert load_encoder(workdir / "export").digest == load_encoder(workdir).digest
        assert sorted(os.listdir(workdir)) == ["config.json", "encoder.npz", "export"]


def test_file_of_that_name(workdir):
    (workdir / "export").write_text("mine")
    with pytest.raises(InputError, match=r"^--workdir's export must be a new or an empty.*/run/export', a file$"):
        export(small_config(), workdir)
    assert (workdir / "export").read_text() == "mine"


def test_workdir_without_a_run(tmp_path):
    with pytest.raises(InputError, match=r"^--workdir must be a run, an export or a file of weights; got .* without a"):
        export(small_config(), tmp_path)


@pytest.mark.slow
def test_kills(environment, tmp_path):
    """Whenever it is killed, what has the final name is whole, or is not there for a moment between two renames."""
    path, digest = tmp_path / "export", make_encoder().digest
    for delay in (0.0, 0.01, 0.03, 0.1, 0.3):
        line = [sys.executable, "-c", LOOP, str(path)]
        with subprocess.Popen(line, env=environment, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"exporting\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        if path.exists():
            assert load_encoder(path).digest == digest
    make_encoder().export(path)
    assert os.listdir(tmp_path) == ["export"]
