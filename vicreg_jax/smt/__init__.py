"""The sparse manifold transform (Chen et al., ICLR 2023, arXiv 2209.15261): features without a network or gradients.

The modules in the order of the pipeline: `patches`, `whitening`, `dictionary`, `code`, `statistics`, `spectral`,
`pooling`. `fit` fits the transform to images; `transform` computes the features of images.
"""

from vicreg_jax.smt.files import load_smt, save_smt
from vicreg_jax.smt.fit import fit
from vicreg_jax.smt.options import SMTOptions
from vicreg_jax.smt.spectral import spectral_embedding
from vicreg_jax.smt.statistics import patch_statistics
from vicreg_jax.smt.transform import SMT, transform

__all__ = ["SMT", "SMTOptions", "fit", "load_smt", "patch_statistics", "save_smt", "spectral_embedding", "transform"]
