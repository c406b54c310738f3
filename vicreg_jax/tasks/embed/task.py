"""The task `embed`: the features of every image of a folder or a dataset, in one file."""

import os
from pathlib import Path

from ml_collections import ConfigDict

from vicreg_jax.config import check_config, from_section, pretrain_table
from vicreg_jax.data import Dataset
from vicreg_jax.encoder import Encoder, load_encoder
from vicreg_jax.runtime.agreement import build_everywhere
from vicreg_jax.runtime.errors import named
from vicreg_jax.runtime.processes import are_several, is_first
from vicreg_jax.runtime.storage import open_directory
from vicreg_jax.tasks.agreement import require_same_data
from vicreg_jax.tasks.embed.files import write_whole, writer_for
from vicreg_jax.tasks.splits import explained_data_errors
from vicreg_jax.training.mesh import batch_sharding, make_mesh
from vicreg_jax.training.progress import open_console


def embed(config: ConfigDict, workdir: Path) -> None:
    """Writes names, features and labels of the images that the section `data` names; see `Encoder.embed`.

    The encoder is that of `embed.encoder`, or of the run in the workdir; the sections `method`, `model` and `augment`
    of the config matter only for a file of weights.

    Raises:
        InputError: bad input; nothing has been written.
        TrainingError: too many images cannot be read, or the file cannot be written.
    """
    with from_section("method", method="method.name"):
        check_config(config, pretrain_table(config.method.name))
    output = workdir / "embeddings.npz"
    if config.embed.output is not None:
        output = open_directory(os.path.expanduser(config.embed.output), "config.embed.output")
    encoder = _load_encoder(config, workdir)
    write = writer_for(output)
    with from_section("mesh"):
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    data, batch_size = config.data, config.evaluation.batch_size
    dataset = build_everywhere(lambda: _open_dataset(config, encoder))
    if are_several():
        require_same_data({"embed.split": dataset})
    parts = encoder.embed(
        dataset,
        root=os.path.expanduser(data.manual_dir or ""),
        sharding=batch_sharding(mesh),
        batch_size=-(-batch_size // mesh.size) * mesh.size,
        workers=data.workers,
    )
    console = open_console(quiet=not is_first())
    with explained_data_errors(), console.status(f"embedding {len(dataset)} images"):
        if not is_first():
            for _ in parts:  # the first process needs the others to compute them
                pass
            return
        count = write_whole(output, write, parts, encoder)
    console.print(f"{count} x {encoder.feature_dim} features of {data.name} are in {output}", soft_wrap=True)


def _open_dataset(config: ConfigDict, encoder: Encoder) -> Dataset:
    data = config.data
    with from_section("data", split="embed.split"):
        return encoder.open_dataset(
            data.name,
            config.embed.split,
            data_dir=data.data_dir,
            manual_dir=data.manual_dir,
            labels_file=data.labels_file,
            max_unreadable=data.max_unreadable,
        )


def _load_encoder(config: ConfigDict, workdir: Path) -> Encoder:
    """The encoder that the config names.

    Raises:
        InputError: there is none, naming the field or the flag.
    """
    place, name = config.embed.encoder, "config.embed.encoder"
    if place is None:
        place, name = workdir, "--workdir without config.embed.encoder"
    with named(path=name):
        return load_encoder(place, config=config)
