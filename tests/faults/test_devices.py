"""What a run gives does not depend on how many devices or hosts ran it."""

import dataclasses
import itertools
import signal

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from configs.digits import get_config
from tests.runs import Run, launch, run_processes, steps_logged, steps_saved
from vicreg_jax.augment import make_views
from vicreg_jax.data import train_batches
from vicreg_jax.tasks.pretrain.build import build
from vicreg_jax.tasks.pretrain.task import Pretrain
from vicreg_jax.training.mesh import AXES, batch_sharding, state_shardings
from vicreg_jax.training.metrics import read_metrics
from vicreg_jax.training.state import init_state, step_key

STEPS = 30
TOLERANCE = 1e-4  # of the loss, relative, at each of the steps
# At the config's own learning rate the digits are so sensitive that the initial parameters, changed by one unit in the
# last place, move the loss of one and the same device by 4e-4 within 30 steps. At this one they do not.
CALM = 1e-3
BRIEF = (
    f"--config.optim.base_lr={CALM}",
    "--config.train.epochs=3",
    "--config.model.head_dims=(256, 256)",  # large enough to be split over 'fsdp'
    "--config.checkpoint.every_steps=7",
    "--config.logging.every_steps=1",
    "--config.evaluation.every_epochs=0",
    "--config.evaluation.labels_per_class=(1,)",
    "--config.evaluation.draws=1",
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The default config's experiment at a calm learning rate, and small."""
    config = get_config()
    config.data.data_dir = str(tmp_path_factory.mktemp("data"))
    config.model.head_dims = (32, 32)
    config.optim.base_lr = CALM
    config.model.width = 0.5
    config.train.batch_size = 64
    config.train.epochs = 3
    return build(config)


def mesh(data, fsdp=1):
    return jax.make_mesh((data, fsdp), AXES, (AxisType.Auto,) * 2, devices=jax.devices()[: data * fsdp])


def batches(digits, mesh):
    sharding = batch_sharding(mesh)
    return train_batches(digits.train_data, batch_size=digits.plan.batch_size, seed=0, sharding=sharding, resident=True)


@pytest.mark.usefixtures("usual_compilation")
@pytest.mark.parametrize(
    "shape", [(8, 1), *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((2, 1), (4, 1), (4, 2), (2, 4)))]
)
def test_images_and_pixels_are_the_same_bits(digits, shape):
    def views(mesh, step, batch):
        return make_views(
            step_key(jax.random.key_data(jax.random.key(0)), step),
            batch["image"],
            batch["aspect_ratio"],
            digits.views,
            digits.preprocessing,
            mesh=mesh,
        )

    one, several = mesh(1), mesh(*shape)
    for step, expected, found in zip(range(2), batches(digits, one), batches(digits, several), strict=False):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        jax.tree.map(np.testing.assert_array_equal, views(several, step, found), views(one, step, expected))


@pytest.mark.slow
def test_eight_devices_learn_what_one_does(digits):
    @jax.jit
    def initialize():
        return init_state(
            jax.random.key(0),
            method=digits.method,
            optimizer=digits.optimizer,
            image_shape=digits.image_shape,
            num_classes=digits.train_data.num_classes,
        )

    initial = jax.device_get(initialize())

    def losses(devices):
        there = mesh(devices)
        shardings = state_shardings(there, initial)
        task = Pretrain(dataclasses.replace(digits, mesh=there))
        train_step = task.compile(initial, shardings, 0)
        state = jax.device_put(initial, shardings)
        for batch in itertools.islice(batches(digits, there), STEPS):
            state, metrics = train_step(state, batch)
            yield metrics["loss"]

    one, eight = (np.array(list(losses(devices))) for devices in (1, 8))
    assert one[-1] < one[0]
    np.testing.assert_allclose(eight, one, rtol=TOLERANCE)


def losses(workdir):
    rows = read_metrics(workdir / "metrics.jsonl")[:STEPS]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return [row["loss"] for row in rows]


def on(environment, devices):
    return environment | {"JAX_NUM_CPU_DEVICES": str(devices)}


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "fsdp"), [(2, 1), (4, 1), (8, 1), (4, 2), (8, 2), (4, 4), (8, 4)])
def test_loss_on_any_mesh(environment, undisturbed, tmp_path, devices, fsdp):
    expected, _ = undisturbed(*BRIEF)
    result = launch(on(environment, devices), tmp_path, *BRIEF, f"--config.mesh.fsdp={fsdp}")
    assert result.returncode == 0, result.stderr
    assert f"devices {devices} x cpu, mesh data={devices // fsdp} fsdp={fsdp}, 1 process(es)" in result.stdout
    np.testing.assert_allclose(losses(tmp_path), losses(expected), rtol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 2])
def test_loss_in_two_processes_of_four_devices(environment, undisturbed, tmp_path, fsdp):
    expected, _ = undisturbed(*BRIEF)
    with run_processes(on(environment, 4), tmp_path / "run", *BRIEF, f"--config.mesh.fsdp={fsdp}") as runs:
        assert [run.wait() for run in runs] == [0, 0], [run.said for run in runs]
        assert f"devices 8 x cpu, mesh data={8 // fsdp} fsdp={fsdp}, 2 process(es)" in runs[0].said
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(expected), rtol=TOLERANCE)


@pytest.mark.slow
def test_other_devices_at_every_start(environment, undisturbed, tmp_path):
    expected, _ = undisturbed(*BRIEF)
    workdir = tmp_path / "run"
    for devices, steps in ((8, 5), (4, 18)):
        with Run(on(environment, devices), workdir, *BRIEF) as run:
            assert run.reaches(lambda steps=steps: steps in steps_logged(workdir)), run.said
            run.process.send_signal(signal.SIGTERM)
            assert run.wait() == 75, run.said
    assert 18 < steps_saved(workdir)[-1] < 33
    result = launch(on(environment, 1), workdir, *BRIEF)
    assert result.returncode == 0, result.stderr
    np.testing.assert_allclose(losses(workdir), losses(expected), rtol=TOLERANCE)
