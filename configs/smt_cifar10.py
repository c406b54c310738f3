"""The sparse manifold transform on CIFAR-10 or CIFAR-100: flips, 8192 random patches as dictionary; for a GPU.

    python launch.py --config=configs/smt_cifar10.py --workdir=runs/smt_cifar10
    python launch.py --config=configs/smt_cifar10.py:4096 --workdir=runs/smt_cifar10_4096       # atoms
    python launch.py --config=configs/smt_cifar10.py:8192,grayscale,cifar100 --workdir=runs/smt_cifar100

The recipe as far as it is known: patches of 6x6, threshold 0.3, whitening ridge 0.001, the first 8 eigenvectors left
out, 512 kept, average pooling 5 by 3 and then to 3x3, kNN with k = 30 and T = 0.03. Unknown, and so of our choosing:
whether near duplicates are kept out of the dictionary (not here), what else the grayscale copies change (here every
training image is seen in color and without, in the fit and as a neighbor), and the settings of the published runs
with more atoms. Published, kNN: CIFAR-10 81.1 (83.2 with grayscale), CIFAR-100 53.2 (57.0), and 79.2 quoted for
CIFAR-10 with these 8192 atoms. Not run by us yet: there is no result of ours to give.
"""

from ml_collections import ConfigDict

from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.smt.config import smt_config


def get_config(argument: str = "8192") -> ConfigDict:
    """The experiment; `argument`: a number of atoms, 'grayscale' and 'cifar100', with commas between."""
    config = smt_config()
    config.data.name = "cifar10"
    config.data.image_size = 32
    config.method.atoms = 8192
    config.method.flips = True
    config.train.batch_size = 256
    for word in argument.split(","):
        if word.isdecimal():
            config.method.atoms = int(word)
        elif word == "grayscale":
            config.method.grayscale = True
        elif word == "cifar100":
            config.data.name = "cifar100"
        else:
            raise InputError(f"got {word!r}, takes a number of atoms, 'grayscale' or 'cifar100'")
    return config
