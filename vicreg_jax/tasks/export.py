"""The task `export`: write the encoder of a run, without optimizer and expander."""

import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config import check_config, differences, from_section, pretrain_table, to_json
from vicreg_jax.encoder import FORMATS, load_encoder, write_weights
from vicreg_jax.runtime.errors import named
from vicreg_jax.runtime.processes import decide, is_first
from vicreg_jax.runtime.storage import open_directory
from vicreg_jax.runtime.workdir import check_workdir, read_json

# Of `summary.json`, what a model card says of the run.
_RESULTS = (
    *("method", "dataset", "epochs", "knn_accuracy", "linear_accuracy", "few_label_accuracy", "few_label_std"),
    *("shared_images", "baselines"),
)


def export(config: ConfigDict, workdir: Path) -> None:
    """Writes an encoder in the format `export.format`; see `Encoder.export` and `write_weights`.

    The encoder is that of `export.encoder`, or of the run in the workdir; the sections `model`, `data` and `augment` of
    the config matter only for a file of weights.

    Raises:
        InputError: there is no such encoder, the format cannot hold it, or something else has the name of the output;
            nothing has been written.
    """
    with from_section("method", method="method.name"):
        check_config(config, pretrain_table(config.method.name))
    path = decide(lambda: str(_export(config, workdir)))
    if is_first():
        print(f"the encoder is in {path}; vicreg_jax.load_encoder({path!r}) loads it")


def _export(config: ConfigDict, workdir: Path) -> Path:
    options = config.export
    place, name = workdir, "--workdir"
    if options.encoder is None:
        check_workdir(workdir, to_json(config), differences)
    else:
        name = "config.export.encoder"
        place = open_directory(os.path.expanduser(options.encoder), name)
    with named(path=name):
        encoder = load_encoder(place, config=config)
    output = workdir / ("export" if options.format == "vicreg_jax" else f"encoder{FORMATS[options.format].suffix}")
    if options.output is not None:
        output = open_directory(os.path.expanduser(options.output), "config.export.output")
    with named(path="config.export.output", directory="config.export.output", format="config.export.format"):
        if options.format == "vicreg_jax":
            return encoder.export(output)
        return write_weights(output, encoder, options.format, results=_results(place))


def _results(place: Path) -> dict[str, Any] | None:
    """The accuracies of the run, if it is a run with a summary."""
    summary = read_json(place / "summary.json") if place.is_dir() else None
    return None if summary is None else {name: summary[name] for name in _RESULTS if name in summary}
