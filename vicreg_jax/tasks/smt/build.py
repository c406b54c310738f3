"""From a config to what it names, everything checked before anything is compiled."""

import dataclasses

from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from vicreg_jax.config.fields import check_config
from vicreg_jax.data import Dataset
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.smt.options import SMTOptions
from vicreg_jax.tasks.smt.stream import DatasetStream
from vicreg_jax.tasks.splits import open_splits
from vicreg_jax.training.mesh import batch_sharding, make_mesh


@dataclasses.dataclass(frozen=True)
class SMTExperiment:
    """A config, checked, and what it names."""

    config: ConfigDict
    options: SMTOptions
    train_data: Dataset
    test_data: Dataset
    mesh: Mesh
    stream: DatasetStream  # of the training images

    @property
    def sharding(self) -> NamedSharding:
        """Of images over the devices."""
        return batch_sharding(self.mesh)


def build(config: ConfigDict) -> SMTExperiment:
    """Checks the config and opens its data sets.

    Raises:
      InputError: at the first thing that cannot be used, naming the field.
    """
    check_config(config)
    fields = dict(config.method)
    if (name := fields.pop("name")) != "smt":
        raise InputError(f"config.method.name: got {name!r}, takes 'smt' where config.task='smt'")
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    try:
        options = SMTOptions(**fields)
        train_data, test_data = open_splits(config, config.data.image_size)
        stream = open_stream(config, train_data, batch_sharding(mesh))
        options.check_images(stream.image_shape, stream.count)
        options.check_chunk(stream.image_shape, stream.chunk_size)
    except InputError:
        raise
    except ValueError as error:
        raise as_input_error(error) from error
    return SMTExperiment(config, options, train_data, test_data, mesh, stream)


def as_input_error(error: ValueError) -> InputError:
    """What the transform says of one of its arguments, as of the config's field."""
    name = str(error).partition(":")[0]
    if name in {field.name for field in dataclasses.fields(SMTOptions)}:
        return InputError(f"config.method.{error}")
    return InputError(f"config.train.batch_size: {error}" if name == "chunk_size" else f"config.data: {error}")


def open_stream(config: ConfigDict, dataset: Dataset, sharding: NamedSharding) -> DatasetStream:
    """A split's images, in chunks of `train.batch_size`."""
    data = config.data
    return DatasetStream(
        dataset,
        chunk_size=config.train.batch_size,
        sharding=sharding,
        placement=data.placement,
        workers=data.workers,
    )
