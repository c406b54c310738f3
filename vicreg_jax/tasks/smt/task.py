"""The task `smt`: fit the sparse manifold transform to a dataset, then evaluate its features."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vicreg_jax.config import Table, from_section
from vicreg_jax.report import NeighborGrid
from vicreg_jax.smt.files import save_smt
from vicreg_jax.smt.fit import Chunk, FitState, FitStep, chunks_of, fitted, initial_state, remaining_chunks, whole
from vicreg_jax.smt.transform import SMT
from vicreg_jax.tasks.smt.assessment import assess
from vicreg_jax.tasks.smt.build import FIELDS, SMTExperiment, build
from vicreg_jax.tasks.smt.config import smt_table
from vicreg_jax.tasks.smt.report import SMTReport, write_smt_report
from vicreg_jax.tasks.task import HERE, Findings, Outcome, Site, Step, Task
from vicreg_jax.training.state import run_key
from vicreg_jax.training.step import Metrics


class Exhibits(NamedTuple):
    """The fitted transform, and the report's neighbors."""

    transform: SMT
    neighbors: NeighborGrid


class FitTransform(Task[SMTExperiment]):
    """A fit of the transform: two passes over the images; a step is a chunk of images."""

    shown = ("active_atoms", "empty_patches", "images_per_second")
    final_metrics = ("active_atoms", "empty_patches")
    memory_remedy = "Lower config.train.batch_size or config.method.atoms, or raise config.mesh.fsdp."

    @classmethod
    def table(cls, method: str) -> Table:
        """See `Task`."""
        return smt_table()

    @classmethod
    def from_config(cls, config: ConfigDict, site: Site = HERE) -> "FitTransform":
        """See `Task`."""
        return cls(build(config, site))

    @property
    def name(self) -> str:
        """See `Task`."""
        return "smt"

    @property
    def duration(self) -> str:
        """See `Task`."""
        stream = self.experiment.stream
        return f"2 passes of {chunks_of(stream)} chunks of {stream.chunk_size} images"

    def init(self, key: jax.Array) -> FitState:
        """See `Task`; the state begins with zeros."""
        return initial_state(self.experiment.options, self.experiment.stream.image_shape)

    def describe(self, shapes: FitState) -> list[str]:
        """See `Task`."""
        options = self.experiment.options
        rows, columns = options.patch_grid(self.experiment.stream.image_shape)
        variants = f", {options.variants} variants per image" if options.variants > 1 else ""
        return [
            f"model   {options.atoms} atoms of {options.patch_size}x{options.patch_size} pixels, "
            f"{rows * columns} patches per image{variants}, {options.embedding_dim} dimensions, "
            f"{options.pool_cells**2 * options.embedding_dim} features"
        ]

    def batches(self, start_step: int) -> Iterator[Chunk]:  # type: ignore[override]
        """See `Task`."""
        return remaining_chunks(self.experiment.stream, start_step)

    def compile(self, shapes: FitState, shardings: Any, start_step: int) -> Step:
        """See `Task`: the programs of the two passes, and the host's work between them."""
        experiment = self.experiment
        key = run_key(experiment.config.seed)
        fit_step = FitStep(experiment.stream, experiment.options, key, start_step=start_step, shardings=shardings)

        def step(state: FitState, chunk: Any) -> tuple[FitState, Metrics]:
            with from_section("method", **FIELDS):
                return fit_step(state, chunk)

        return step

    def assess(self, state: FitState, initial: FitState) -> Findings:
        """See `Task`."""
        experiment = self.experiment
        options, stream = experiment.options, experiment.stream
        transform = fitted(whole(state, experiment.mesh), options, stream.image_shape)
        results, neighbors = assess(experiment, transform)
        rows, columns = options.patch_grid(stream.image_shape)
        facts = {
            "loss": float(jnp.sum(transform.eigenvalues)),
            "atoms": options.atoms,
            "embedding_dim": options.embedding_dim,
            "patches": stream.count * options.variants * rows * columns,
        }
        return Findings(facts | results, Exhibits(transform, neighbors))

    def save_artifacts(self, workdir: Path, exhibits: Exhibits) -> None:
        """See `Task`: the transform, for `vicreg_jax.smt.load_smt`."""
        save_smt(workdir, exhibits.transform)

    def write_report(self, path: Path, outcome: Outcome) -> None:
        """See `Task`."""
        transform, neighbors = outcome.exhibits
        content = SMTReport(
            smt=transform,
            summary=outcome.summary,
            config=self.config_fields,
            metrics=outcome.metrics,
            neighbors=neighbors,
            class_names=self.experiment.train_data.class_names,
        )
        write_smt_report(path, content)
