"""The fields of a run of the transform, with their defaults."""

import dataclasses

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vicreg_jax.config.fields import shared_config
from vicreg_jax.smt.options import SMTOptions


def smt_config() -> ConfigDict:
    """Every field with its default; a file of `configs/` names the data. The section `method` is `SMTOptions`."""
    config = shared_config("smt")
    config.method = ConfigDict({"name": "smt"} | dataclasses.asdict(SMTOptions()))
    config.method.context = placeholder(int)
    config.train = ConfigDict({"batch_size": 64})  # images on their way at a time, over all devices
    config.evaluation.knn_neighbors = 30
    config.evaluation.knn_temperature = 0.03
    config.checkpoint.every_steps = 100  # chunks, of both passes
    config.logging.every_steps = 10
    return config.lock()
