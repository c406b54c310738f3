"""A run without a run: its programs compiled for devices that need not be here, and what the compiler says of them."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.table import Table
from rich.text import Text

from vicreg_jax.config import with_changes
from vicreg_jax.data import Dataset
from vicreg_jax.data.collection import LabeledImage, Selection
from vicreg_jax.data.splits import parse_split
from vicreg_jax.runtime.errors import InputError, TrainingError
from vicreg_jax.runtime.workdir import write_json
from vicreg_jax.tasks.splits import open_splits
from vicreg_jax.tasks.task import Site, Task
from vicreg_jax.training.mesh import state_shardings
from vicreg_jax.training.program import ProgramCost, cost_of
from vicreg_jax.training.progress import open_console
from vicreg_jax.training.state import run_key
from vicreg_jax.training.topology import Topology, open_topology, prepare

STEP = "train step"
_SHOWN_TRAFFIC = 1e-3  # parts with a smaller share of a step's memory traffic are not printed


@dataclass(frozen=True)
class _Facts:
    """What the programs of a run depend on in a dataset. `side` is None where images differ in size."""

    splits: Mapping[str, int]
    channels: int
    side: int | None
    num_classes: int


# Datasets that need not be prepared for a dry run: number of images by split, from their pages in tfds's catalog.
_KNOWN = {
    "imagenet2012": _Facts({"train": 1_281_167, "validation": 50_000}, 3, None, 1000),
    "imagenet2012_subset/1pct": _Facts({"train": 12_811, "validation": 50_000}, 3, None, 1000),
    "imagenet2012_subset/10pct": _Facts({"train": 128_116, "validation": 50_000}, 3, None, 1000),
    "cifar10": _Facts({"train": 50_000, "test": 10_000}, 3, 32, 10),
    "cifar100": _Facts({"train": 50_000, "test": 10_000}, 3, 32, 100),
    "fashion_mnist": _Facts({"train": 60_000, "test": 10_000}, 1, 28, 10),
    "mnist": _Facts({"train": 60_000, "test": 10_000}, 1, 28, 10),
}


class _NoImages(Sequence):
    """Labels of even classes, without images."""

    def __init__(self, length: int, num_classes: int):
        self._length, self._num_classes = length, num_classes

    def __len__(self) -> int:
        """Number of images."""
        return self._length

    def __getitem__(self, index: Any) -> LabeledImage:
        """No bytes, and a label."""
        return b"", index % self._num_classes


@dataclass(frozen=True)
class Compiled:
    """A program and the time that its compilation took."""

    cost: ProgramCost
    seconds: float


def dry_run(
    task_type: type[Task],
    config: ConfigDict,
    topology_name: str,
    *,
    output: Path | None = None,
    alternatives: bool = False,
) -> None:
    """Compiles the train step and the evaluation of a config for other devices, and prints what they cost.

    Args:
        task_type: of the config.
        config: of the run.
        topology_name: the devices to compile for; no device must have been used yet.
        output: file for the same as JSON.
        alternatives: compile also with the settings that need less memory, one at a time.

    Raises:
        InputError: bad input, or a task whose step is not one program.
        TrainingError: the compiler refuses a program.
    """
    topology = _open(topology_name)
    console = open_console(soft_wrap=True)
    site = Site(topology.devices, _splits_without_images, opens_transfer=False)
    with console.status(Text(f"compiling for {topology.name}")):
        task = task_type.from_config(config, site)
        programs = _compile(task)
    mesh, kind = task.experiment.mesh, topology.devices[0].device_kind
    console.print(
        f"dry run {topology.name}: {mesh.size} x {kind}, mesh data={mesh.shape['data']} fsdp={mesh.shape['fsdp']}, "
        f"batch {task.plan.batch_size}\n"
        "        a compilation, not a run: times are lower bounds by the chip's data sheet"
    )
    console.print(_table(programs, topology))
    needed, available = programs[STEP].cost.memory, topology.chip.memory
    fits = None if available is None else needed <= available
    if fits is False:
        console.print(f"does not fit: {task.memory_remedy}", style="bold yellow")
    tried: dict[str, int | str] = {}
    if alternatives:
        for name, changes in _alternatives(config, mesh.size).items():
            with console.status(Text(f"compiling with {name}")):
                tried[name] = _memory_with(task_type, config, changes, site)
            console.print(f"        with {name}: {_of_memory(tried[name], available)}")
    if output is not None:
        found = {
            "topology": topology.name,
            "device": kind,
            "devices": mesh.size,
            "mesh": dict(mesh.shape),
            "batch_size": task.plan.batch_size,
            "memory_available": available,
            "fits": fits,
            "programs": {
                name: program.cost.to_json()
                | {
                    "least_seconds": program.cost.least_seconds(topology.chip),
                    "compile_seconds": round(program.seconds, 1),
                }
                for name, program in programs.items()
            },
            "alternatives": tried,
            "config": task.config_fields,
        }
        write_json(output, found)


def _open(name: str) -> Topology:
    try:
        prepare(name)
        return open_topology(name)
    except ValueError as error:
        raise InputError(f"--dry_run{str(error).removeprefix('topology')}") from error


def _compile(task: Task) -> dict[str, Compiled]:
    shapes = jax.eval_shape(task.init, run_key(0))
    mesh = task.experiment.mesh
    shardings = state_shardings(mesh, shapes)

    def timed(compile_one: Callable[[], Any]) -> Compiled:
        started = time.perf_counter()
        try:
            program = compile_one()
        except jax.errors.JaxRuntimeError as error:
            raise TrainingError(f"the compiler refuses the program: {' '.join(str(error).split()):.300}") from error
        if not isinstance(program, jax.stages.Compiled):
            raise InputError(
                "config.task must be one whose step is one program, such as 'pretrain', for --dry_run; "
                f"got {task.experiment.config.task!r}"
            )
        return Compiled(cost_of(program, mesh.size), time.perf_counter() - started)

    programs = {STEP: timed(lambda: task.compile(shapes, shardings, 0))}
    for name, lowered in task.lower_evaluation(shapes, shardings).items():
        programs[name] = timed(lowered.compile)
    return programs


def _alternatives(config: ConfigDict, devices: int) -> dict[str, dict[str, Any]]:
    """Settings that need less memory, by the name under which they are printed."""
    batch_size = config.train.batch_size
    half = batch_size // 2
    candidates: dict[str, dict[str, Any]] = {}
    if devices > 1 and config.mesh.fsdp != devices:
        candidates[f"mesh.fsdp={devices}"] = {"mesh.data": 1, "mesh.fsdp": devices}
    if "remat" in config.train and not config.train.remat:
        candidates["train.remat=True"] = {"train.remat": True}
    if "microbatch_size" in config.train and config.train.microbatch_size is None and half % devices == 0:
        candidates[f"train.microbatch_size={half}"] = {"train.microbatch_size": half}
    if half % devices == 0:
        candidates[f"train.batch_size={half}"] = {"train.batch_size": half}
    return candidates


def _memory_with(task_type: type[Task], config: ConfigDict, changes: Mapping[str, Any], site: Site) -> int | str:
    """Bytes of the train step with these settings, or why there are none."""
    try:
        return _compile(task_type.from_config(with_changes(config, changes), site))[STEP].cost.memory
    except (InputError, TrainingError) as error:
        return str(error)


def _table(programs: Mapping[str, Compiled], topology: Topology) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("of one device")
    for name in programs:
        table.add_column(name)
    chip = topology.chip
    costs = [program.cost for program in programs.values()]

    def row(name: str, cell: Callable[[ProgramCost], str]) -> None:
        table.add_row(name, *map(cell, costs))

    def least(cost: ProgramCost, limit: str) -> str:
        seconds = cost.least_seconds(chip).get(limit)
        return "" if seconds is None else f", at least {1e3 * seconds:.3g} ms"

    row("memory", lambda cost: _of_memory(cost.memory, chip.memory))
    row("  state and batch", lambda cost: _gib(cost.arguments))
    row("  temporary", lambda cost: _gib(cost.temporary))
    row("arithmetic", lambda cost: f"{cost.flops / 1e12:.3g} TFLOP{least(cost, 'arithmetic')}" if cost.flops else "?")
    row("memory traffic", lambda cost: f"{sum(cost.traffic.values()) / 1e9:.3g} GB{least(cost, 'memory traffic')}")
    for part, size in costs[0].traffic.items():
        if size >= _SHOWN_TRAFFIC * sum(costs[0].traffic.values()):
            row(f"  {part}", partial(_of_traffic, part=part))
    row(
        "interconnect",
        lambda cost: f"{cost.sent / 1e9:.3g} GB sent{least(cost, 'interconnect')}" if cost.sent else "none",
    )
    for kind in sorted({collective.kind for cost in costs for collective in cost.collectives}):
        row(f"  {kind}", partial(_of_collectives, kind=kind))
    for rank in range(max(len(cost.largest) for cost in costs)):
        row("" if rank else "largest buffers", partial(_of_buffer, rank=rank))
    table.add_row("compiled in", *(f"{program.seconds:.0f} s" for program in programs.values()))
    return table


def _of_traffic(cost: ProgramCost, part: str) -> str:
    size = cost.traffic.get(part, 0)
    return f"{size / 1e9:.3g} GB" if size else ""


def _of_collectives(cost: ProgramCost, kind: str) -> str:
    found = (f"{each.count}, {each.bytes / 1e6:.3g} MB" for each in cost.collectives if each.kind == kind)
    return next(found, "none")


def _of_buffer(cost: ProgramCost, rank: int) -> str:
    if rank >= len(cost.largest):
        return ""
    buffer = cost.largest[rank]
    return f"{_gib(buffer.bytes)} {buffer.shape} {_tail(buffer.operation)}"


def _of_memory(needed: int | str, available: int | None) -> str:
    if isinstance(needed, str):
        return needed
    if available is None:
        return _gib(needed)
    return f"{_gib(needed)} of {_gib(available)}, {'fits' if needed <= available else 'does not fit'}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 0.1 * 2**30 else f"{size / 2**20:.2f} MiB"


def _tail(operation: str, width: int = 60) -> str:
    """The end of an operation's name, where it differs from others."""
    return operation if len(operation) <= width else "..." + operation[-width:]


def _splits_without_images(config: ConfigDict, decode_size: int | None) -> tuple[Dataset, Dataset]:
    """The splits of a dataset that is not here, if its facts are known; else those that are here."""
    data = config.data
    facts = None if data.manual_dir is not None else _KNOWN.get(data.name)
    if facts is None:
        return open_splits(config, decode_size)

    def split(name: str) -> Dataset:
        parts = parse_split(name, facts.splits)
        return Dataset(
            name=data.name,
            split=name,
            source=Selection([(_NoImages(facts.splits[part], facts.num_classes), indices) for part, indices in parts]),
            canvas=decode_size or facts.side or math.ceil(1.5 * data.image_size),
            channels=facts.channels,
            class_names=tuple(map(str, range(facts.num_classes))),
        )

    return split(data.train_split), split(data.test_split)
