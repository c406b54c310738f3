"""From the config of a transform to what it names, everything checked before anything compiles."""

from dataclasses import dataclass

from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from vicreg_jax.config import check_config, from_section
from vicreg_jax.data import Dataset
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.smt.fit import chunks_of
from vicreg_jax.smt.options import SMTOptions
from vicreg_jax.tasks.smt.config import smt_table
from vicreg_jax.tasks.smt.stream import DatasetStream
from vicreg_jax.tasks.task import HERE, Experiment, Site
from vicreg_jax.training.mesh import batch_sharding, make_mesh
from vicreg_jax.training.plan import Plan

# Arguments of the transform that are not fields of the section `method`.
FIELDS = {"chunk_size": "train.batch_size", "images": "data.name"}


@dataclass(frozen=True)
class SMTExperiment(Experiment):
    """A checked config and what it names; `stream` gives the training images."""

    options: SMTOptions
    stream: DatasetStream


def open_stream(config: ConfigDict, dataset: Dataset, sharding: NamedSharding) -> DatasetStream:
    """The images of a split in chunks of `train.batch_size`."""
    data = config.data
    return DatasetStream(
        dataset,
        chunk_size=config.train.batch_size,
        sharding=sharding,
        placement=data.placement,
        workers=data.workers,
    )


def build(config: ConfigDict, site: Site = HERE) -> SMTExperiment:
    """Checks the config and opens its datasets.

    Raises:
        InputError: at the first field that is not valid, naming it.
    """
    check_config(config, smt_table())
    fields = dict(config.method)
    if (name := fields.pop("name")) != "smt":
        raise InputError(f"config.method.name must be 'smt' where config.task='smt'; got {name!r}")
    with from_section("mesh"):
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp, site.devices)
    with from_section("method", **FIELDS):
        options = SMTOptions(**fields)
    train_data, test_data = site.open_splits(config, config.data.image_size)
    stream = open_stream(config, train_data, batch_sharding(mesh))
    with from_section("method", **FIELDS):
        options.check_images(stream.image_shape, stream.count)
        options.check_chunk(stream.image_shape, stream.chunk_size)
    chunks = chunks_of(stream)
    plan = Plan(
        total_steps=2 * chunks,
        steps_per_epoch=chunks,
        batch_size=stream.chunk_size,
        log_every=config.logging.every_steps,
        save_every=config.checkpoint.every_steps,
        save_every_seconds=60 * config.checkpoint.every_minutes,
        steps_ahead=2,  # chunks are large
        host_work={
            chunks: "choosing the dictionary",
            2 * chunks: f"solving the eigenproblem of {options.atoms} atoms",
        },
    )
    return SMTExperiment(config, mesh, train_data, train_data, test_data, plan, options, stream)
