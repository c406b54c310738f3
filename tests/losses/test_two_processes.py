"""Two processes with two devices each give the result of one device. The file is its own worker."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vicreg_jax.losses import barlow_twins_loss, info_nce_loss, nt_xent_loss, vicreg_loss


def problem():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 12)), rng.normal(size=(8, 5)), rng.normal(size=(8, 5))


def loss(kernel, a, b, axis_name=None):
    z_a, z_b, keys = a @ kernel, b @ kernel, jnp.eye(5) @ kernel
    return (
        vicreg_loss(z_a, z_b, axis_name=axis_name).loss
        + barlow_twins_loss(z_a, z_b, axis_name=axis_name).loss
        + nt_xent_loss(z_a, z_b, axis_name=axis_name)
        + info_nce_loss(z_a, z_b, keys, axis_name=axis_name)
    )


def averaged(kernel, a, b):
    value, gradient = jax.value_and_grad(loss)(kernel, a, b, "data")
    return value, lax.pmean(gradient, "data")


def work(process, port):
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    kernel, *views = problem()
    kernel = jax.make_array_from_process_local_data(NamedSharding(mesh, P()), kernel)
    rows = slice(4 * process, 4 * process + 4)
    sharded = NamedSharding(mesh, P("data"))
    views = [jax.make_array_from_process_local_data(sharded, view[rows]) for view in views]
    mapped = jax.shard_map(averaged, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P())
    for step in (jax.value_and_grad(loss), mapped):
        value, gradient = jax.jit(step, out_shardings=NamedSharding(mesh, P()))(kernel, *views)
        print("result", json.dumps([float(value), np.asarray(gradient).tolist()]))


@pytest.mark.slow
def test_two_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_ENABLE_X64": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles faster
    }
    environment = os.environ | settings | {"PYTHONPATH": str(Path(__file__).parents[2])}
    commands = [[sys.executable, __file__, str(process), str(port)] for process in range(2)]
    workers = [subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, text=True) for c in commands]
    try:
        outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    with jax.enable_x64(True):
        expected = jax.jit(jax.value_and_grad(loss))(*problem())
    for output in outputs:
        results = [json.loads(line.removeprefix("result")) for line in output.splitlines() if line.startswith("result")]
        assert len(results) == 2
        for result in results:
            for actual, wanted in zip(result, expected, strict=True):
                np.testing.assert_allclose(actual, wanted, rtol=1e-11, atol=1e-11)


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]))
