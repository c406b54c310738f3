"""The fields of an experiment: their defaults, what each takes, and how two runs' fields are compared.

A file in `configs/` starts from `base_config` and states what makes its experiment what it is. `check_config` refuses
a field outside of its range before anything is compiled; what a name refers to (a backbone, a recipe, a data set) is
checked by the room that knows it.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vicreg_jax.methods import METHODS
from vicreg_jax.runtime.errors import InputError

# What may differ between two runs on one workdir: it changes what is done or seen, not what is learned.
CHANGEABLE = ("task", "mesh", "logging", "evaluation", "checkpoint", "train.remat")


def method_section(name: str) -> ConfigDict:
    """The section `method` for that method: its fields, as its class in `vicreg_jax.methods` has them, with defaults.

    Raises:
      InputError: an unknown name.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"config.method.name: got {name!r}, takes one of {', '.join(METHODS)}{hint}")
    # Without a default are the modules, which the section `model` is about.
    fields = (field for field in dataclasses.fields(METHODS[name]) if not field.kw_only)
    return ConfigDict(
        {"name": name} | {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    )


def shared_config(task: str) -> ConfigDict:
    """The sections that every task has, with defaults; not locked."""
    config = ConfigDict()
    config.task = task
    config.seed = 0

    config.data = ConfigDict()
    config.data.name = "digits"
    config.data.data_dir = placeholder(str)  # where prepared data sets are kept; None: the tfds default
    config.data.manual_dir = placeholder(str)  # files the user brings: IDX files, or a folder of images
    config.data.image_size = 32  # side of a view, in pixels
    config.data.train_split = "train"
    config.data.test_split = "test"
    config.data.placement = "auto"  # 'device': all of it lives on the devices; 'host': streamed; 'auto': by size
    config.data.workers = 0  # processes that decode; 0: threads of this one
    config.data.most_unreadable = 0.05  # share of the images that may turn out unreadable before the run stops

    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices along each axis; -1: all that are left
    config.mesh.fsdp = 1

    config.evaluation = ConfigDict()
    config.evaluation.knn_neighbors = 20
    config.evaluation.knn_temperature = 0.07
    config.evaluation.labels_per_class = (1, 5, 10)
    config.evaluation.draws = 10  # of the labeled images, per entry of labels_per_class

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 1000
    config.checkpoint.every_minutes = 0.0  # at most so long after the last; 0: by steps alone
    config.checkpoint.keep = 2

    config.logging = ConfigDict()
    config.logging.every_steps = 50
    config.logging.tensorboard = False
    return config


def base_config(method: str = "vicreg") -> ConfigDict:
    """Every field of a pretraining run: VICReg's official optimizer and schedule as defaults; a file names the data.

    Args:
      method: whose fields the section `method` has.

    Raises:
      InputError: an unknown method.
    """
    config = shared_config("pretrain")
    config.data.decode_size = placeholder(int)  # side of a decoded image where sizes vary; None: 3/2 image_size
    config.evaluation.batch_size = 256
    config.evaluation.every_epochs = 0  # kNN accuracy while training; 0: at the end alone

    config.augment = ConfigDict()
    config.augment.recipe = "vicreg"
    # The recipe's own values are used where these are None.
    config.augment.crop_area = placeholder(tuple)
    config.augment.flip_probability = placeholder(float)
    config.augment.jitter_probability = placeholder(float)
    config.augment.grayscale_probability = placeholder(float)
    config.augment.blur_probability = placeholder(float)
    config.augment.solarize_probability = placeholder(float)
    config.augment.mean = (0.485, 0.456, 0.406)  # of pixels in [0, 1]; one value, or one a channel
    config.augment.std = (0.229, 0.224, 0.225)
    config.augment.central_fraction = 1.0  # of the shorter side, kept by the central crop that evaluation sees

    config.method = method_section(method)

    config.model = ConfigDict()
    config.model.name = "resnet50"
    config.model.width = 1.0  # multiplies every width of the backbone
    config.model.stem = "imagenet"
    config.model.head_dims = (8192, 8192, 8192)  # the expander or projector
    config.model.predictor_dims = ()  # none: no predictor
    config.model.head_batch_norm = placeholder(bool)  # in head and predictor; None: as the method's official code
    config.model.shared = ("backbone", "head")  # what the two branches have in common
    config.model.second_name = placeholder(str)  # the second branch's backbone, where it is not shared

    config.optim = ConfigDict()
    config.optim.name = "lars"
    config.optim.base_lr = 0.2  # for a batch of 256: the peak is base_lr * batch_size / 256
    config.optim.weight_decay = 1e-6
    config.optim.decay_biases = False  # whether biases and BatchNorm are decayed too
    config.optim.bias_lr_factor = 1.0  # learning rate of biases and BatchNorm, over that of the weights
    config.optim.constant_predictor_lr = False  # whether the predictor stays at the peak learning rate
    config.optim.momentum = 0.9  # of LARS and SGD; of Adam the decay of the first moment
    config.optim.trust_coefficient = 0.001  # of LARS
    config.optim.clip_trust_ratio = False  # of LARS: no update longer than SGD's
    config.optim.lr_in_momentum = False  # of LARS: SimCLR's form
    config.optim.warmup_epochs = 10.0
    config.optim.drop_epochs = ()  # where the learning rate falls to a tenth; none: a cosine
    config.optim.final_lr_fraction = 0.001  # of the peak, at the last step of the cosine

    config.train = ConfigDict()
    config.train.batch_size = 2048  # images, over all devices
    config.train.epochs = 100
    config.train.precision = "bfloat16"  # of the networks' arithmetic; parameters, statistics, loss stay float32
    config.train.microbatch_size = placeholder(int)  # images at a time through the networks; None: the whole batch
    config.train.remat = False  # compute a block's activations again in the backward pass, to save memory
    config.train.on_nonfinite = "stop"  # where loss or gradient is not finite; or 'skip': leave the update out
    return config.lock()


def _at_least(minimum: int) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value >= minimum, f"an integer of at least {minimum}"


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in names, "one of " + ", ".join(names)


def _numbers(value: Any, accepts: Callable[[float], bool]) -> bool:
    return len(value) > 0 and all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) and accepts(x) for x in value
    )


_POSITIVE = (lambda value: 0 < value < math.inf, "a number above 0")
_NOT_NEGATIVE = (lambda value: 0 <= value < math.inf, "a number of at least 0")
_FRACTION = (lambda value: 0 <= value <= 1, "a number from 0 to 1")
_INTEGERS = (
    lambda value: _numbers(value, lambda x: isinstance(x, int) and x >= 1),
    "one or more integers of at least 1, as a tuple",
)

# field -> (does it accept this value?, what it takes in words). Placeholders are checked only where they are given.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda value: 0 <= value < 2**32, "an integer from 0 to 4294967295"),
    "data.image_size": _at_least(1),
    "data.decode_size": _at_least(1),
    "data.placement": _one_of("auto", "device", "host"),
    "data.workers": _at_least(0),
    "data.most_unreadable": _FRACTION,
    "augment.crop_area": (
        lambda value: len(value) == 2 and _numbers(value, lambda x: 0 < x <= 1) and value[0] <= value[1],
        "two fractions of the image's area, smallest first, such as (0.08, 1.0)",
    ),
    "augment.mean": (lambda value: _numbers(value, lambda x: True), "one number, or one a channel"),
    "augment.std": (lambda value: _numbers(value, lambda x: x > 0), "one number above 0, or one a channel"),
    "augment.central_fraction": (lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    "model.width": (lambda value: 0 < value <= 64, "a number above 0, at most 64"),
    "model.stem": _one_of("imagenet", "small"),
    "model.head_dims": _INTEGERS,
    "model.widths": _INTEGERS,
    "model.code": _at_least(1),
    "model.predictor_dims": (lambda value: value == () or _INTEGERS[0](value), "integers of at least 1, as a tuple"),
    "model.shared": (
        lambda value: len(set(value)) == len(value) and set(value) <= {"backbone", "head"},
        "'backbone', 'head', both or neither, as a tuple",
    ),
    "method.activation_rate": _POSITIVE,
    "method.local_steps": _at_least(1),
    "method.local_form": _one_of("auto", "plain", "gram"),
    "method.variant": _one_of("m", "s"),
    "optim.base_lr": (lambda value: 0 < value <= 1e30, "a number above 0, at most 1e30"),
    "optim.weight_decay": _NOT_NEGATIVE,
    "optim.momentum": (lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "optim.bias_lr_factor": _POSITIVE,
    "optim.decay": (lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "optim.epsilon": _NOT_NEGATIVE,
    "optim.schedule_epochs": _at_least(2),
    "optim.trust_coefficient": _POSITIVE,
    "optim.drop_epochs": (
        lambda value: value == () or (_numbers(value, lambda x: x > 0) and list(value) == sorted(set(value))),
        "epochs above 0 in rising order, as a tuple",
    ),
    "optim.warmup_epochs": _NOT_NEGATIVE,
    "optim.final_lr_fraction": _FRACTION,
    "train.batch_size": _at_least(2),
    "train.epochs": _at_least(1),
    "train.precision": _one_of("float32", "bfloat16"),
    "train.microbatch_size": _at_least(2),
    "train.on_nonfinite": _one_of("stop", "skip"),
    "mesh.data": (lambda value: value == -1 or value >= 1, "an integer of at least 1, or -1 for all devices"),
    "mesh.fsdp": (lambda value: value == -1 or value >= 1, "an integer of at least 1, or -1 for all devices"),
    "evaluation.every_epochs": _at_least(0),
    "evaluation.batch_size": _at_least(1),
    "evaluation.knn_neighbors": _at_least(1),
    "evaluation.knn_temperature": _POSITIVE,
    "evaluation.labels_per_class": _INTEGERS,
    "evaluation.draws": _at_least(1),
    "checkpoint.every_steps": _at_least(1),
    "checkpoint.every_minutes": _NOT_NEGATIVE,
    "checkpoint.keep": _at_least(1),
    "logging.every_steps": _at_least(1),
} | {f"augment.{operation}_probability": _FRACTION for operation in ("flip", "jitter", "grayscale", "blur", "solarize")}


def flatten(config: ConfigDict | dict) -> dict[str, Any]:
    """`{'optim.base_lr': 0.2, ...}`: every field under its dotted name."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            flat |= {f"{key}.{name}": field for name, field in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def check_config(config: ConfigDict) -> None:
    """Refuses the first field whose value its rule does not accept.

    Raises:
      InputError: naming the field, what it got and what it takes.
    """
    for name, value in flatten(config).items():
        if name in _RULES and value is not None:
            accepts, takes = _RULES[name]
            if not accepts(value):
                raise InputError(f"config.{name}: got {value!r}, takes {takes}")


def what_it_takes(config: ConfigDict, name: str) -> str:
    """What a field takes, in words."""
    default = flatten(config)[name]
    if name in _RULES:
        return _RULES[name][1]
    words = {int: "an integer", float: "a number", bool: "true or false", tuple: "a tuple such as (1, 2)"}
    return words.get(type(default), "a text")


def closest_field(config: ConfigDict, name: str) -> str | None:
    """The field whose dotted name (or last part) is most like `name`, for a "did you mean"."""
    names = list(flatten(config))
    by_last_part = {field.rsplit(".", 1)[-1]: field for field in names}
    close = difflib.get_close_matches(name, names, n=1) or [
        by_last_part[part] for part in difflib.get_close_matches(name.rsplit(".", 1)[-1], by_last_part, n=1)
    ]
    return close[0] if close else None


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON holds it: nested dictionaries, tuples as lists."""
    return json.loads(json.dumps(config.to_dict()))


def from_json(fields: dict[str, Any]) -> ConfigDict:
    """The config that `to_json` was given; lists come back as tuples.

    Raises:
      InputError: where a field is not one of today's.
    """
    config = base_config(fields.get("method", {}).get("name", "vicreg"))
    for name, value in flatten(fields).items():
        try:
            config.update_from_flattened_dict({name: tuple(value) if isinstance(value, list) else value})
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise InputError(f"config.{name}: got {value!r}, which this version does not take ({error})") from error
    return config


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What stands in the way of going on with a run: one phrase a field that may not change and did."""
    ours, theirs = flatten(ours), flatten(theirs)
    return [
        f"{name} was {theirs.get(name)!r} and is {ours.get(name)!r}"
        for name in sorted(ours.keys() | theirs.keys())
        if not {name, name.split(".")[0]} & set(CHANGEABLE) and ours.get(name) != theirs.get(name)
    ]
