"""The time of a step by part."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from vicreg_jax.training.hlo import part_of
from vicreg_jax.training.profile import Event, ProfiledStep, StepProgram, by_part


@partial(jax.jit, donate_argnums=0)
def step(state, batch):
    def loss(state):
        with jax.named_scope("backbone"):
            rows = jax.lax.map(lambda row: jnp.sin(row @ state), batch)
        with jax.named_scope("head"):
            return jnp.sum(jnp.tanh(rows @ state))

    value, gradient = jax.value_and_grad(loss)(state)
    with jax.named_scope("optimizer"):
        return state - 0.1 * gradient, {"loss": value}


def test_a_profile_says_where_the_time_goes(tmp_path):
    state, batch = jnp.ones((64, 64)), jnp.ones((8, 16, 64))
    expected = step(step(jnp.ones((64, 64)), batch)[0], batch)[0]
    said = []
    profiled = ProfiledStep(step.lower(state, batch).compile(), (3, 4), start_step=1, workdir=tmp_path, say=said.append)
    for _ in range(4):  # steps 2 to 5
        state, metrics = profiled(state, batch)
        assert metrics["loss"].shape == ()
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found["steps"] == [3, 4]
    assert found["step_milliseconds"] > 0
    assert {"backbone", "backbone, backward", "head", "head, backward"} <= found["milliseconds"].keys()
    assert all(time >= 0 for time in found["milliseconds"].values())
    assert found["largest"][0]["milliseconds"] == max(each["milliseconds"] for each in found["largest"])
    assert any("backbone" in each["source"] for each in found["largest"])
    [line] = said
    assert line.startswith("profile ")
    assert "backbone" in line
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    # The steps themselves are the same.
    state = jnp.ones((64, 64))
    for _ in range(2):
        state, _ = step(state, batch)
    assert jnp.array_equal(state, expected)


def test_a_run_that_resumes_after_the_steps_has_no_profile(tmp_path):
    state, batch = jnp.ones((64, 64)), jnp.ones((8, 16, 64))
    profiled = ProfiledStep(step, (3, 4), start_step=3, workdir=tmp_path, say=print)
    for _ in range(3):
        state, _ = profiled(state, batch)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("jit(step)/augmentation/jit(make_view)/while/body/mul", "augmentation"),
        ("jit(step)/jvp(loss)/backbone/ResNet/conv1/conv_general_dilated", "backbone"),
        ("jit(step)/transpose(jvp(loss))/head/Head/layer0/dot_general", "head, backward"),
        ("jit(step)/transpose(jvp(loss))/mul", "loss, backward"),
        ("jit(step)/optimizer/mul", "optimizer"),
        ("jit(step)/overhead/mul", "rest"),
        ("", "rest"),
    ],
)
def test_the_innermost_scope_names_the_part(source, part):
    assert part_of(source) == part


def test_kernels_are_added_up_by_part():
    program = StepProgram.of(
        "HloModule jit_step, is_scheduled=true\n"
        '  %fusion.1 = f32[] fusion(%a), metadata={op_name="jit(step)/optimizer/mul"}\n'
        "  ROOT %copy.2 = f32[] copy(%b)\n"
    )
    events = [
        Event("jit_step", "fusion.1", 0, 2e6),
        Event("", "fusion_1", 3e6, 4e6),  # a kernel of a CUDA graph
        Event("jit_step", "copy.2", 8e6, 1e6),
        Event("jit_gather", "fusion.9", 9e6, 6e6),
    ]
    found = by_part(events, program, steps=2)
    assert found["milliseconds"] == {"optimizer": 3.0, "other programs": 3.0, "rest": 0.5}
    assert [each["part"] for each in found["largest"]] == ["other programs", "optimizer", "optimizer", "rest"]
