"""The sparse manifold transform: features of images without a network or a gradient. See docs/smt.md.

The pipeline in its order: `patches`, `whitening`, `dictionary`, `code`, `statistics`, `spectral`, `pooling`; `fit` goes
through it with a stream of images, `transform` with new ones.
"""

from vicreg_jax.smt.files import load_smt, save_smt
from vicreg_jax.smt.fit import fit
from vicreg_jax.smt.options import SMTOptions
from vicreg_jax.smt.spectral import spectral_embedding
from vicreg_jax.smt.statistics import patch_statistics
from vicreg_jax.smt.transform import SMT, transform

__all__ = ["SMT", "SMTOptions", "fit", "load_smt", "patch_statistics", "save_smt", "spectral_embedding", "transform"]
