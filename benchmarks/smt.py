"""Time of the sparse manifold transform: a chunk of each pass beside its floor, and optionally a whole fit.

    python -m benchmarks.smt --size=28 --channels=1 --atoms=2048 --embedding_dim=256
    python -m benchmarks.smt --size=32 --channels=3 --atoms=8192 --flips --chunk_size=256 --images=50000    # a GPU

The floor of the second pass is its one large matrix product: 2 * patches * atoms^2 operations at the device's rate,
measured in the same run. Images are smooth noise, since the time does not depend on their content.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import median_seconds, write_results
from benchmarks.roofline import matmul_flops_per_second
from vicreg_jax.smt import SMT, SMTOptions, fit
from vicreg_jax.smt.statistics import patch_statistics
from vicreg_jax.smt.transform import image_codes, image_features
from vicreg_jax.smt.variants import image_variants

_PRODUCTS = {
    "float32": (jnp.float32, jnp.float32),
    "bfloat16": (jnp.bfloat16, jnp.float32),
    "int8": (jnp.int8, jnp.int32),
}


def smooth_images(count: int, size: int, channels: int) -> np.ndarray:
    """uint8 `[count, size, size, channels]`: noise, averaged over 4 x 4 pixels."""
    noise = np.random.default_rng(0).random((count, size + 3, size + 3, channels), np.float32)
    windows = [noise[:, top : top + size, left : left + size] for top in range(4) for left in range(4)]
    return (255 * np.clip(2 * np.mean(windows, axis=0) - 0.5, 0, 1)).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=28, help="side of an image")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--atoms", type=int, default=2048)
    parser.add_argument("--embedding_dim", type=int, default=256)
    parser.add_argument("--flips", action="store_true")
    parser.add_argument("--chunk_size", type=int, default=64)
    parser.add_argument("--images", type=int, default=0, help="images of a whole fit; 0: no fit")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    options = SMTOptions(atoms=arguments.atoms, embedding_dim=arguments.embedding_dim, flips=arguments.flips)
    images = jnp.asarray(smooth_images(arguments.chunk_size, arguments.size, arguments.channels))
    images = image_variants(images, options).reshape(-1, *images.shape[1:])
    shape = (arguments.size, arguments.size, arguments.channels)
    patch_dim = options.patch_size**2 * arguments.channels
    atoms = jax.random.normal(jax.random.key(0), (options.atoms, patch_dim))
    smt = SMT(
        whitening=jnp.eye(patch_dim),
        dictionary=atoms / jnp.linalg.norm(atoms, axis=1, keepdims=True),
        projection=jax.random.normal(jax.random.key(1), (options.embedding_dim, options.atoms)),
        eigenvalues=jnp.zeros(options.embedding_dim),
        options=options,
        image_shape=shape,
    )
    seconds = partial(median_seconds, repeats=arguments.repeats)
    code = jax.jit(partial(image_codes, options=options))
    codes = code(images, smt.whitening, smt.dictionary)
    patches = codes.shape[0] * codes.shape[1]
    on_cpu = jax.devices()[0].platform == "cpu"
    rate = matmul_flops_per_second("float32" if on_cpu else "bfloat16")
    operations = 2 * patches * options.atoms**2
    results = {
        "images_a_chunk": len(images),
        "patches_a_chunk": patches,
        "active_share": float(jnp.mean(codes, dtype=jnp.float32)),
        "matrix_flops_per_second": rate,
        "seconds": {
            "codes": seconds(code, images, smt.whitening, smt.dictionary),
            "statistics": seconds(jax.jit(partial(patch_statistics)), codes),
            "features": seconds(image_features, smt, images),
        },
        "floor_seconds": {
            "statistics": operations / rate,
            "features": 2 * patches * options.atoms * options.embedding_dim / rate,
        },
    }
    rows = codes.reshape(-1, options.atoms)
    exact = np.asarray(jax.jit(partial(_product, kind="float32"))(rows))
    results["products"] = {}
    for kind in _PRODUCTS:
        product = jax.jit(partial(_product, kind=kind))
        results["products"][kind] = {
            "seconds": (took := seconds(product, rows)),
            "flops_per_second": operations / took,
            "is_exact": bool(np.array_equal(np.asarray(product(rows)), exact)),
        }
    if arguments.images:
        everything = smooth_images(arguments.images, arguments.size, arguments.channels)
        started = time.perf_counter()
        jax.block_until_ready(
            fit(
                everything,
                key=jax.random.key(0),
                chunk_size=arguments.chunk_size,
                atoms=options.atoms,
                embedding_dim=options.embedding_dim,
                flips=options.flips,
            )
        )
        all_patches = arguments.images * options.variants * codes.shape[1]
        results["fit"] = {
            "images": arguments.images,
            "seconds": time.perf_counter() - started,
            "floor_seconds": 2 * all_patches * options.atoms**2 / rate,
        }
    for name, value in results.items():
        print(f"{name}: {value}")
    write_results(arguments.output, settings={k: str(v) for k, v in vars(arguments).items()}, **results)


def _product(codes: jax.Array, kind: str) -> jax.Array:
    inputs, sums = _PRODUCTS[kind]
    codes = codes.astype(inputs)
    precision = jax.lax.Precision.HIGHEST if kind == "float32" else None
    return jax.lax.dot_general(
        codes, codes, (((0,), (0,)), ((), ())), precision=precision, preferred_element_type=sums
    ).astype(jnp.int32)


if __name__ == "__main__":
    main()
