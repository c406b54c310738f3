"""Memory and time to evaluate features of ImageNet's size, kept on the devices.

    python -m benchmarks.evaluation_scale --output=benchmarks/results/cpu_evaluation_scale.json

The features are cheap to compute: a vector for each class, and a term that depends on the place in the batch. On a CPU
the devices' memory is the host's: `host_gigabytes` is what the process holds beside the bank.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks.data.scale import memory
from benchmarks.measure import write_results
from vicreg_jax.data import Batch
from vicreg_jax.evaluation import extract_bank, knn_predict


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    random = np.random.default_rng(0)
    centers = random.standard_normal((arguments.classes, arguments.dim), np.float32)
    noise = random.standard_normal((arguments.batch, arguments.dim), np.float32)

    @jax.jit
    def apply(variables: tuple[jax.Array, jax.Array], batch: Batch) -> jax.Array:
        centers, noise = variables
        return centers[jnp.maximum(batch["label"], 0)] + 3 * jnp.roll(noise, batch["label"][0], axis=1)

    def batches() -> Iterator[Batch]:
        for start in range(0, arguments.images, arguments.batch):
            rows = np.arange(start, start + arguments.batch)
            labels = np.where(rows < arguments.images, rows * 7919 % arguments.classes, -1).astype(np.int32)
            yield {"label": jax.device_put(labels, sharding)}

    before = memory()["now"]
    start = time.perf_counter()
    variables = jnp.asarray(centers), jnp.asarray(noise)
    bank = extract_bank(apply, variables, batches(), images=arguments.images, sharding=sharding)
    jax.block_until_ready(bank.features)
    filled = time.perf_counter()
    extracted = memory()
    labels = random.integers(0, arguments.classes, arguments.queries)
    queries = centers[labels] + 3 * random.standard_normal((arguments.queries, arguments.dim), np.float32)
    predictions = np.asarray(knn_predict(bank, queries, num_classes=arguments.classes))
    searched = time.perf_counter() - filled
    bank_gigabytes = bank.features.nbytes / 1e9
    results = {
        "images": arguments.images,
        "dim": arguments.dim,
        "bank_gigabytes": bank_gigabytes,
        "float32_gigabytes": 4 * arguments.images * arguments.dim / 1e9,
        "subset": {
            "images": len(bank.subset.labels),
            "every": bank.every,
            "gigabytes": bank.subset.features.nbytes / 1e9,
        },
        "host_gigabytes": {
            "before": before,
            "after_extraction": extracted["now"] - bank_gigabytes,
            "peak_of_extraction": extracted["peak"] - bank_gigabytes,
        },
        "seconds_to_fill": filled - start,
        "knn": {
            "queries": arguments.queries,
            "accuracy": float(np.mean(predictions == labels)),
            "seconds": searched,
            "gigaflops_per_second": 2 * arguments.queries * arguments.images * arguments.dim / searched / 1e9,
        },
    }
    print(results)
    write_results(arguments.output, **results)


if __name__ == "__main__":
    main()
