"""Which configs belong to one run: what must not differ between two starts, and how a run is extended.

Configs are as JSON holds them: nested dictionaries with lists.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from vicreg_jax.config.reading import flatten
from vicreg_jax.runtime.errors import InputError

Fields = Mapping[str, Any]

# A run may be resumed with other values of these: they change how and where it runs or what is shown, not what is
# learned. What the data are is checked by what they are (`vicreg_jax.data.identity`).
CHANGEABLE = (
    "task",
    "mesh",
    "logging",
    "evaluation",
    "checkpoint",
    "embed",
    "export",
    "evaluate",
    "data.data_dir",
    "data.manual_dir",
    "data.labels_file",
    "data.max_unreadable",
    "data.placement",
    "data.workers",
    "train.extend",
    "train.on_nonfinite",
    "train.remat",
)
# Fields that the run fills in.
_FILLED_IN = ("train.extensions", "model.init_digest", "model.init_head_digest")
# These tasks take the run in the workdir; any other one keeps its own there.
_OF_A_RUN = ("embed", "export")


class Extension(NamedTuple):
    """An entry of `train.extensions`.

    Attributes:
        step: the step from which the run was extended.
        epochs: the length of the run until then.
        how: the value of `train.extend`.
    """

    step: int
    epochs: int
    how: str


def differences(ours: Fields, theirs: Fields) -> list[str]:
    """One phrase per field that differs and forbids resuming."""
    ours, theirs = flatten(ours), flatten(theirs)
    same = set(CHANGEABLE)
    if ours.get("task") not in _OF_A_RUN:
        same.remove("task")
    if ours.get("train.extend") is not None:
        same.add("train.epochs")  # `extended` checks it
    same |= {name for name in _FILLED_IN if not ours.get(name)}  # those of the run hold
    return [
        f"{name} was {theirs.get(name)!r} and is {ours.get(name)!r}{_remedy(name, ours, theirs)}"
        for name in sorted(ours.keys() | theirs.keys())
        if not {name, name.split(".")[0]} & same
        and ours.get(name) != theirs.get(name)
        and not (name == "data.value_range" and ours.get(name) == "auto" and name in theirs)  # takes the recorded one
    ]


def _remedy(name: str, ours: Fields, theirs: Fields) -> str:
    if name != "train.epochs" or "train.extend" not in ours or ours[name] <= theirs.get(name, ours[name]):
        return ""
    return " (to train longer, set train.extend=replan or train.extend=cosine_from_here)"


def run_identity(fields: Fields, step: int) -> dict[str, Any]:
    """What identifies the run of a checkpoint at that step: the seed, and a digest of the other fields that define it.

    An extension changes nothing before its step, so a checkpoint from before has the digest of the shorter run.
    """
    flat = flatten(fields)
    defining = {name: value for name, value in flat.items() if not {name, name.split(".")[0]} & set(CHANGEABLE)}
    extensions = _extensions(flat)
    if later := [extension for extension in extensions if extension.step >= step]:
        defining["train.epochs"] = later[0].epochs
        defining["train.extensions"] = extensions[: -len(later)]
    seed = defining.pop("seed")
    digest = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()
    return {"seed": seed, "config": digest[:32]}


def extended(ours: Fields, theirs: Fields, step: int | None) -> list[Extension]:
    """The extensions of a run that continues another one of the same fields.

    Args:
        ours: the config of this start; `differences` finds none.
        theirs: the config of the run in the workdir.
        step: of its newest checkpoint; None: there is none.

    Raises:
        InputError: `train.extend` is set, and there is nothing to extend.
    """
    ours, theirs = flatten(ours), flatten(theirs)
    how, epochs, planned = ours["train.extend"], ours["train.epochs"], theirs["train.epochs"]
    extensions = _extensions(theirs)
    if how is None or (epochs == planned and extensions and extensions[-1].how == how):
        return extensions
    if step is None:
        raise InputError(f"config.train.extend must be None for a run without a checkpoint; got {how!r}")
    if epochs <= planned:
        raise InputError(
            f"config.train.epochs must be above {planned}, the epochs of the run, with train.extend={how!r}; "
            f"got {epochs}"
        )
    # No step was taken under an extension at that step or a later one.
    before = [extension for extension in extensions if extension.step < step]
    if len(before) < len(extensions):
        planned = extensions[len(before)].epochs
    return [*before, Extension(step, planned, how)]


def _extensions(flat: Fields) -> list[Extension]:
    return [Extension(*entry) for entry in flat.get("train.extensions", ())]
