"""From the config of a supervised run to what it names, everything checked before anything compiles."""

from dataclasses import dataclass

import optax
from flax import linen as nn
from ml_collections import ConfigDict

from vicreg_jax.augment import Preprocessing, View
from vicreg_jax.config import Table, check_config, from_section
from vicreg_jax.data import Dataset, hold_out, labeled_subset, steps_per_epoch
from vicreg_jax.encoder import build_backbone, build_preprocessing
from vicreg_jax.optim import OptimizerOptions, create_optimizer
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.parts import build_views, check_batch_sizes, plan_of, planned_schedule
from vicreg_jax.tasks.task import HERE, Experiment, Site
from vicreg_jax.training.mesh import make_mesh


@dataclass(frozen=True)
class SupervisedExperiment(Experiment):
    """A checked config and the objects that it names; the datasets are open, nothing is compiled.

    Attributes:
        preprocessing: of all images.
        view: the random view of every training image.
        backbone: the network without its classifier.
        schedule: the learning rate by step, for a base learning rate of 1.
        optimizer: with that schedule; its updates are multiplied by the base learning rate of their part.
        whole_train_data: the training split, of which `train_data` may be a part.
        validation_data: what is held out of it; None: nothing.
    """

    preprocessing: Preprocessing
    view: View
    backbone: nn.Module
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    whole_train_data: Dataset
    validation_data: Dataset | None

    @property
    def num_classes(self) -> int:
        """Of the labels."""
        assert self.train_data.num_classes is not None  # checked by `build`
        return self.train_data.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of a view: `(image_size, image_size, channels)`."""
        return (self.preprocessing.image_size,) * 2 + (self.train_data.channels,)


def build(config: ConfigDict, table: Table, site: Site = HERE) -> SupervisedExperiment:
    """Checks the config, opens its datasets (preparing new ones), and builds what it names.

    Raises:
        InputError: at the first field that is not valid, naming it.
    """
    check_config(config, table)
    with from_section("mesh"):
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp, site.devices)
    train = config.train
    check_batch_sizes(train.batch_size, None, mesh.size)
    view = build_views(config)[0]
    backbone = build_backbone(config, platform=mesh.devices.flat[0].platform)
    whole_train_data, test_data = site.open_splits(config, config.data.decode_size)
    for split, field in ((whole_train_data, "train_split"), (test_data, "test_split")):
        if split.num_classes is None:
            raise InputError(
                f"config.data.{field} must be a split with labels for task={config.task!r}; got {split.split!r} of "
                f"{split.name!r}, which is unlabeled"
            )
    train_data, validation_data = _training_images(config, whole_train_data)
    with from_section("train"):
        epoch_steps = steps_per_epoch(len(train_data), train.batch_size)
    schedule = planned_schedule(config, 1.0, epoch_steps, train.epochs)
    return SupervisedExperiment(
        config=config,
        mesh=mesh,
        train_data=train_data,
        evaluation_train_data=train_data,
        test_data=test_data,
        preprocessing=build_preprocessing(config, train_data.channels),
        view=view,
        backbone=backbone,
        schedule=schedule,
        optimizer=_build_optimizer(config, schedule),
        whole_train_data=whole_train_data,
        validation_data=validation_data,
        plan=plan_of(config, epoch_steps),
    )


def _training_images(config: ConfigDict, whole: Dataset) -> tuple[Dataset, Dataset | None]:
    """The images to train on, and those that are held out."""
    if config.task == "finetune":
        with from_section("finetune"):
            return labeled_subset(whole, config.finetune.labels, seed=config.seed), None
    rates, fraction = config.linear.learning_rates, config.linear.validation_fraction
    if fraction == 0:
        if len(rates) > 1:
            raise InputError(
                f"config.linear.validation_fraction must be above 0 to choose one of the {len(rates)} "
                f"linear.learning_rates; got {fraction}"
            )
        return whole, None
    with from_section("linear", fraction="linear.validation_fraction"):
        return hold_out(whole, fraction, seed=config.seed)


def _build_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    optim = config.optim
    with from_section("optim"):
        options = OptimizerOptions(
            optim.name,
            weight_decay=optim.weight_decay,
            momentum=optim.momentum,
            trust_coefficient=optim.trust_coefficient,
            decay_biases=optim.decay_biases,
        )
    return create_optimizer(options, schedule)
