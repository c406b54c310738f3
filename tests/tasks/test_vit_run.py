"""Runs of `launch.py` with a ViT, on Fashion-MNIST: every method, kills, parts, devices."""

import numpy as np
import pytest
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

from tests.data.files import FASHION_MNIST, images_file, labels_file
from tests.faults.kills import run_through_kills
from tests.runs import assert_same_end, launch
from vicreg_jax.methods import METHODS
from vicreg_jax.training.metrics import read_metrics

pytestmark = pytest.mark.slow

TRAIN, TEST, BATCH = 128, 32, 16  # images
SHORT = (
    "--config.train.epochs=2",
    f"--config.train.batch_size={BATCH}",
    "--config.train.precision=float32",
    f"--config.optim.base_lr={1e-3 * 256 / BATCH}",
    "--config.optim.warmup_epochs=0.0",
    "--config.model.head_dims=(256, 64)",
    "--config.logging.every_steps=1",
    "--config.evaluation.every_epochs=0",
    "--config.evaluation.labels_per_class=(1,)",
    "--config.evaluation.draws=1",
    "--config.evaluation.label_free_images=0",
)
SMALL = (*SHORT, "--config.model.width=0.67")  # two heads
# Within 16 steps the loss of the others rises. The first keys of MoCo's queue are random, and easy to tell from an
# image's. CorInfoMax carries covariances that begin at the identity. With 16 rows, VISReg's shape term pulls all
# embeddings together (docs/methods/visreg.md, "Small batches"). Triplet's loss, of the hardest of a few negatives,
# scatters by more than it falls.
FALLING = ("vicreg", "barlow_twins", "simclr", "debiased", "byol", "simsiam", "lejepa")
OWN = {
    "moco": (f"--config.method.queue_size={2 * BATCH}",),
    "byol": ("--config.model.predictor_dims=(256, 64)",),
    "simsiam": ("--config.model.predictor_dims=(32, 64)",),
}


@pytest.fixture(scope="session")
def clothes(shared):
    """The first images of Fashion-MNIST; where it is not there, digits in files like its."""
    if FASHION_MNIST.is_dir():
        parts = (f"--config.data.train_split=train[:{TRAIN}]", f"--config.data.test_split=test[:{TEST}]")
        return (f"--config.data.manual_dir={FASHION_MNIST}", *parts)
    folder = shared / "clothes"
    folder.mkdir(exist_ok=True)
    digits = load_digits()
    images = np.clip(255 / 16 * zoom(digits.images, (1, 3.5, 3.5), order=1), 0, 255)
    for prefix, rows in (("train", slice(TRAIN)), ("t10k", slice(TRAIN, TRAIN + TEST))):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(images_file(images[rows]))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels_file(digits.target[rows]))
    return (f"--config.data.manual_dir={folder}",)


def config(method):
    return {"config": f"configs/fashion_mnist.py:{method},vit"}


def losses(workdir):
    return np.array([row["loss"] for row in read_metrics(workdir / "metrics.jsonl")])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(environment, clothes, tmp_path, method):
    result = launch(environment, tmp_path, *clothes, *SHORT, *OWN.get(method, ()), **config(method))
    assert result.returncode == 0, result.stderr
    found = losses(tmp_path)
    assert len(found) == 2 * TRAIN // BATCH
    assert np.isfinite(found).all()
    if method in FALLING:
        assert found[-4:].mean() < found[:4].mean()


def test_kills(environment, undisturbed, clothes, tmp_path):
    """With stochastic depth, whose random numbers resume too."""
    arguments = (*clothes, *SMALL, "--config.model.stochastic_depth=0.3", "--config.checkpoint.every_steps=3")
    expected, _ = undisturbed(*arguments, **config("vicreg"))
    run_through_kills(environment, tmp_path / "run", *arguments, kills=3, total_steps=16, seed=2, **config("vicreg"))
    assert_same_end(tmp_path / "run", expected)


@pytest.mark.parametrize(
    ("devices", "option"),
    [(1, "train.microbatch_size=8"), (1, "train.remat=True"), (8, "mesh.fsdp=1"), (8, "mesh.fsdp=4")],
)
def test_loss_is_that_of_one_device_and_a_whole_batch(environment, undisturbed, clothes, tmp_path, devices, option):
    """Without BatchNorm in the head no row depends on the others, so that parts of a batch are as good as all of it."""
    arguments = (*clothes, *SMALL, "--config.model.head_batch_norm=False")
    expected, _ = undisturbed(*arguments, **config("vicreg"))
    there = environment | {"JAX_NUM_CPU_DEVICES": str(devices)}
    result = launch(there, tmp_path, *arguments, f"--config.{option}", **config("vicreg"))
    assert result.returncode == 0, result.stderr
    assert f"devices {devices} x cpu" in result.stdout
    np.testing.assert_allclose(losses(tmp_path), losses(expected), rtol=1e-4)
