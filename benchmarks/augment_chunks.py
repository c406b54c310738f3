"""Time of both views by the number of rows drawn at a time, and whether the bits stay the same.

    python -m benchmarks.augment_chunks --batch=256 --canvas=384 --image_size=224

Views are drawn in chunks (`vicreg_jax/augment/views.py`), so that their bits do not depend on the number of devices.
This says what larger chunks would gain, and whether another size of chunk rounds otherwise.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import median_seconds, write_results
from benchmarks.roofline import bytes_per_second
from vicreg_jax.augment import RECIPES, Preprocessing, make_views, recipe, views
from vicreg_jax.training.mesh import make_mesh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="vicreg", choices=RECIPES)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--canvas", type=int, default=384)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--chunks", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    canvas = arguments.canvas
    images = jnp.asarray(random.integers(0, 256, (arguments.batch, canvas, canvas, 3), np.uint8))
    ratios = jnp.asarray(random.uniform(0.7, 1.4, arguments.batch), jnp.float32)
    preprocessing = Preprocessing(arguments.image_size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    mesh, rate = make_mesh(devices=jax.devices()[:1]), bytes_per_second()
    first, rows = None, []
    for chunk in arguments.chunks:
        views.chunk_rows = lambda platform, image_size, chunk=chunk: chunk

        @jax.jit
        def draw(key: jax.Array, images: jax.Array, ratios: jax.Array) -> tuple[jax.Array, ...]:
            return make_views(key, images, ratios, recipe(arguments.recipe), preprocessing, mesh=mesh)

        jax.clear_caches()  # make_view is compiled once per shape, and does not see the change
        compiled = draw.lower(jax.random.key(0), images, ratios).compile()
        seconds = median_seconds(compiled, jax.random.key(0), images, ratios, repeats=arguments.repeats)
        drawn = [np.asarray(view) for view in compiled(jax.random.key(0), images, ratios)]
        first = drawn if first is None else first
        pairs = list(zip(drawn, first, strict=True))
        least = (images.nbytes + sum(view.nbytes for view in drawn)) / rate
        rows.append(
            {
                "chunk": chunk,
                "milliseconds": 1e3 * seconds,
                "images_per_second": arguments.batch / seconds,
                "times_the_floor": seconds / least,
                "same_bits_as_the_first": all(np.array_equal(a, b) for a, b in pairs),
                "largest_difference_from_the_first": max(float(np.abs(a - b).max()) for a, b in pairs),
                "temporary_mebibytes": compiled.memory_analysis().temp_size_in_bytes / 2**20,
            }
        )
        print(rows[-1], flush=True)
    write_results(arguments.output, settings={k: str(v) for k, v in vars(arguments).items()}, results=rows)


if __name__ == "__main__":
    main()
