"""The given weights of a pretraining run, by part."""

from functools import partial

from vicreg_jax.encoder import Weights, read_backbone, read_head
from vicreg_jax.tasks.pretrain.build import PretrainExperiment
from vicreg_jax.tasks.weights import read_weights


def given_weights(experiment: PretrainExperiment) -> dict[str, Weights]:
    """Reads what `model.init_from` and `model.init_head_from` name. A second branch of the same kind gets them too.

    Raises:
        InputError: the weights cannot be read, or do not fit; naming the field.
    """
    config, method = experiment.config, experiment.method
    size, _, channels = experiment.image_shape
    backbone = partial(read_backbone, backbone=method.backbone, image_size=size, channels=channels)
    head = partial(read_head, head=method.head, features=method.backbone.feature_dim)
    given = {
        "backbone": read_weights(config, "init_from", backbone),
        "head": read_weights(config, "init_head_from", head),
    }
    if method.second_backbone == method.backbone:
        given["second_backbone"] = given["backbone"]
    if method.second_head == method.head:
        given["second_head"] = given["head"]
    return {part: weights for part, weights in given.items() if weights is not None}
