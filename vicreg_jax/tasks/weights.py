"""The weights that a run starts from in place of random ones: read once, known by their digest ever after."""

import os
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from vicreg_jax.config import differences, to_json
from vicreg_jax.encoder import Weights
from vicreg_jax.runtime.errors import InputError, named
from vicreg_jax.runtime.processes import decide
from vicreg_jax.runtime.workdir import written_config

_DIGESTS = {"init_from": "init_digest", "init_head_from": "init_head_digest"}  # fields of the section `model`


def take_recorded_digests(config: ConfigDict, workdir: Path) -> None:
    """Sets the digests to those of the run in the workdir, where it has this config: resuming reads no weights."""
    if "model" not in config or "init_from" not in config.model:
        return

    def recorded() -> dict[str, str | None]:
        there = written_config(workdir)
        model = {} if differences(to_json(config), there) else there.get("model", {})
        return {digest: model.get(digest) for digest in _DIGESTS.values() if digest in config.model}

    for field, digest in decide(recorded).items():
        if config.model[field] is None:
            config.model[field] = digest


def read_weights(config: ConfigDict, field: str, read: Callable[[str], Weights]) -> Weights | None:
    """Reads the weights that a field of the section `model` names, and sets its digest; None where it is None.

    Raises:
        InputError: they cannot be read, or have another digest than the config says; naming the field.
    """
    place = config.model[field]
    if place is None:
        return None
    with named(path=f"config.model.{field}"):
        weights = read(os.path.expanduser(place))
    digest = config.model[_DIGESTS[field]]
    if digest not in (None, weights.digest):
        raise InputError(
            f"config.model.{field} must hold the weights of the SHA-256 {digest}, as model.{_DIGESTS[field]} says; "
            f"got {place!r} of {weights.digest}"
        )
    config.model[_DIGESTS[field]] = weights.digest
    return weights
