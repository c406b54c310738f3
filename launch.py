"""Runs the command line from a checkout; the console script `vicreg-jax` is the same.

python launch.py --config=configs/digits.py --workdir=runs/digits [--config.optim.base_lr=0.3 ...]
"""

from vicreg_jax.cli import console

if __name__ == "__main__":
    console()
