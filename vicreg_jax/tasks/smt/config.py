"""The fields of a run of the sparse manifold transform."""

import dataclasses

from ml_collections import ConfigDict

from vicreg_jax.config import SHARED, Field, Table, make_config, method_fields
from vicreg_jax.config.rules import at_least
from vicreg_jax.smt.options import SMTOptions

_CHANGED = {  # defaults of shared fields
    "evaluation.knn_neighbors": 30,
    "evaluation.knn_temperature": 0.03,
    "checkpoint.every_steps": 100,
    "logging.every_steps": 10,
}


def smt_table() -> Table:
    """Every field; the section `method` is `SMTOptions`."""
    changed = {name: dataclasses.replace(SHARED[name], default=default) for name, default in _CHANGED.items()}
    batch_size = Field(64, at_least(1), "images per chunk over all devices; the result does not depend on it")
    return {**SHARED, **changed, "train.batch_size": batch_size, **method_fields("smt", SMTOptions)}


def smt_config() -> ConfigDict:
    """The config with every default; a file of `configs/` names the data. A step is a chunk of either pass."""
    return make_config("smt", smt_table())
