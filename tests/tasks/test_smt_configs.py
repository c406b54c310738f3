"""The transform's configs fit their images, and state what their sources state."""

import pytest

from configs import smt_cifar10, smt_digits, smt_fashion_mnist, smt_mnist
from vicreg_jax.config import check_config
from vicreg_jax.smt import SMTOptions
from vicreg_jax.tasks.smt.config import smt_table


def options(config):
    check_config(config, smt_table())
    assert config.task == "smt"
    fields = dict(config.method)
    assert fields.pop("name") == "smt"
    return SMTOptions(**fields)


@pytest.mark.parametrize(
    ("config", "shape", "images"),
    [
        (smt_digits.get_config(), (8, 8, 1), 1437),
        (smt_mnist.get_config(), (28, 28, 1), 60000),
        (smt_fashion_mnist.get_config(), (28, 28, 1), 60000),
        (smt_fashion_mnist.get_config("8192"), (28, 28, 1), 60000),
        (smt_cifar10.get_config(), (32, 32, 3), 50000),
        (smt_cifar10.get_config("16384,grayscale,cifar100"), (32, 32, 3), 50000),
    ],
)
def test_config_fits_its_images(config, shape, images):
    chosen = options(config)
    assert config.data.image_size == shape[0]
    chosen.check_images(shape, images)
    chosen.check_chunk(shape, config.train.batch_size)
    assert (config.evaluation.knn_neighbors, config.evaluation.knn_temperature) == (30, 0.03)


def test_cifar10_is_the_published_recipe():
    chosen = options(smt_cifar10.get_config())
    assert chosen == SMTOptions(
        patch_size=6,
        whitening_ridge=1e-3,
        atoms=8192,
        dictionary="patches",
        code="threshold",
        threshold=0.3,
        context=None,
        embedding_dim=512,
        skip=8,
        pool_window=5,
        pool_stride=3,
        pool_cells=3,
        flips=True,
    )


def test_arguments():
    config = smt_cifar10.get_config("4096,grayscale,cifar100")
    assert (config.method.atoms, config.method.grayscale, config.data.name) == (4096, True, "cifar100")
    assert smt_fashion_mnist.get_config("4096").method.atoms == 4096
