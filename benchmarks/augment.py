"""Speed of the augmentation on the device against Pillow on one core, and the pixel differences between the two.

    python -m benchmarks.augment --recipe vicreg --batch 16 --canvas 256 --image_size 224

Prints tables; `--output FILE` also writes them as JSON. The floor of a program is the longer of two times: its FLOPs
(as XLA counts them, the body of a loop once) at the measured rate of matrix products, and its arguments and results at
the measured rate of a copy. Batches that fit into a cache beat this floor. The time for Pillow excludes its random
numbers.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from benchmarks.augment_alternatives import alternatives
from benchmarks.augment_pillow import (
    MEAN,
    STD,
    Draws,
    photographs,
    picture,
    pillow_adjust,
    pillow_blur,
    pillow_crop,
    pillow_hue,
    pillow_jitter,
    pillow_view,
)
from benchmarks.measure import median_seconds, write_results
from vicreg_jax.augment import RECIPES, Preprocessing, View, make_views, recipe
from vicreg_jax.augment.blur import blur
from vicreg_jax.augment.color import (
    JITTER_UNIFORMS,
    adjust,
    grayscale,
    jitter,
    random_jitter,
    shift_hue,
    solarize,
)
from vicreg_jax.augment.crop import BOX_UNIFORMS, crop, random_box


def draw(key: jax.Array, view: View, images: np.ndarray) -> Draws:
    """The random numbers of one view of every image."""
    batch, canvas, _, channels = images.shape
    box_key, jitter_key, sigma_key, choice_key = jax.random.split(key, 4)
    uniforms = jax.random.uniform(box_key, (batch, BOX_UNIFORMS))
    boxes = jax.vmap(lambda u: random_box(u, 1.0, view.crop_area, view.crop_ratio))(uniforms)
    start, end = (jnp.round(side * canvas) / canvas for side in (boxes[:, :2], boxes[:, :2] + boxes[:, 2:]))
    uniforms = jax.random.uniform(jitter_key, (batch, JITTER_UNIFORMS))
    return Draws(
        box=jnp.concatenate([start, end - start], 1),
        jitter=jax.vmap(lambda u: random_jitter(u, view, channels))(uniforms),
        sigma=jax.random.uniform(sigma_key, (batch,), minval=view.blur_sigma[0], maxval=view.blur_sigma[1]),
        choices=jax.random.uniform(choice_key, (batch, 4)),
    )


class Operation(NamedTuple):
    """One operation in both implementations.

    Attributes:
        ours: function of one image; measured under vmap and jit.
        arguments: the arguments of `ours`, with a batch axis.
        pillow: the same in Pillow, as a function of the index in the batch.
    """

    ours: Callable[..., jax.Array]
    arguments: tuple[Any, ...]
    pillow: Callable[[int], Image.Image]


def operations(images: np.ndarray, view: View, draws: Draws, image_size: int) -> dict[str, Operation]:
    """Every operation of the view, by name."""
    batch, channels = len(images), images.shape[-1]
    host: Draws = jax.device_get(draws)
    whole = [picture(pixels) for pixels in images]
    cuts = [pillow_crop(p, b, image_size, view.interpolation) for p, b in zip(whole, host.box, strict=True)]
    small = np.stack([np.asarray(cut).reshape(image_size, image_size, channels) for cut in cuts])
    x = jnp.moveaxis(jnp.asarray(small, jnp.float32), -1, 1) / 255
    options = {"image_size": image_size, "interpolation": view.interpolation, "read_outside": False}
    always = jnp.ones(batch, bool)
    factors = np.linspace(0.6, 1.4, batch, dtype=np.float32)
    shifts = np.linspace(-0.1, 0.1, batch, dtype=np.float32)
    found = {
        "crop": Operation(
            lambda image, box: crop(image, box, **options),
            (jnp.moveaxis(jnp.asarray(images), -1, 1), draws.box),
            lambda i: pillow_crop(whole[i], host.box[i], image_size, view.interpolation),
        ),
        "jitter": Operation(
            jitter,
            (x, draws.jitter),
            lambda i: pillow_jitter(cuts[i], jax.tree.map(lambda leaf: leaf[i], host.jitter)),
        ),
        "blur": Operation(
            lambda image, sigma: blur(image, sigma, max_sigma=view.blur_sigma[1]),
            (x, draws.sigma),
            lambda i: pillow_blur(cuts[i], host.sigma[i]),
        ),
        "solarize": Operation(
            lambda image, applied: solarize(image, view.solarize_threshold, applied),
            (x, always),
            lambda i: ImageOps.solarize(cuts[i]),
        ),
    }
    if channels == 3:
        found["grayscale"] = Operation(grayscale, (x, always), lambda i: cuts[i].convert("L").convert("RGB"))
        found["hue"] = Operation(shift_hue, (x, jnp.asarray(shifts)), lambda i: pillow_hue(cuts[i], shifts[i]))
    for operation, name in enumerate(("brightness", "contrast", "saturation")[: 3 if channels == 3 else 2]):
        found[name] = Operation(
            lambda image, operation, factor: adjust(image, operation[None], factor[None]),
            (x, jnp.full(batch, operation), jnp.asarray(factors)),
            lambda i, operation=operation: pillow_adjust(cuts[i], operation, factors[i]),
        )
    return found


def peaks() -> tuple[float, float]:
    """Measured rates of this machine: float32 matrix products in FLOP/s and a copy in bytes/s."""
    size = 2048
    square = jnp.ones((size, size))
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="high"))
    long = jnp.ones(1 << 26)
    copy = jax.jit(lambda a: a + 1.0)
    return (
        2 * size**3 / median_seconds(product, square, square, repeats=5),
        2 * long.nbytes / median_seconds(copy, long, repeats=5),
    )


def measure(
    function: Callable[..., Any], arguments: tuple[Any, ...], rates: tuple[float, float], repeats: int
) -> dict[str, float]:
    """Measures a jitted function of a batch, and computes its floor."""
    compiled = function.lower(*arguments).compile()
    cost = compiled.cost_analysis()
    arrays = jax.tree.leaves((arguments, jax.eval_shape(function, *arguments)))
    min_bytes = sum(array.size * array.dtype.itemsize for array in arrays)
    seconds = median_seconds(compiled, *arguments, repeats=repeats)
    return {
        "images_per_second": len(arguments[0]) / seconds,
        "seconds": seconds,
        "floor_seconds": max(cost["flops"] / rates[0], min_bytes / rates[1]),
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "least_bytes": min_bytes,
    }


def difference(ours: jax.Array, pillow: list[Image.Image]) -> dict[str, float]:
    """Mean, 99th percentile and maximum of the absolute pixel difference, in gray levels of 255."""
    theirs = np.stack([np.asarray(image, np.float32) for image in pillow])
    levels = np.abs(np.moveaxis(np.asarray(ours), 1, -1).reshape(theirs.shape) * 255 - theirs)
    names = ("mean_levels", "percentile_99_levels", "largest_levels")
    return dict(zip(names, map(float, (levels.mean(), np.quantile(levels, 0.99), levels.max())), strict=True))


def run(recipe_name: str, *, batch: int, canvas: int, image_size: int, channels: int, repeats: int) -> dict[str, Any]:
    """All measurements: the `results` of the JSON file."""
    views = recipe(recipe_name)
    view = replace(views[0], jitter_probability=1.0)  # for the single operations
    images = photographs(batch, canvas, channels)
    pictures = [picture(pixels) for pixels in images]
    keys = jax.random.split(jax.random.key(0), 2)
    draws = jax.device_get([draw(k, v, images) for k, v in zip(keys, views, strict=True)])
    rates = peaks()

    @jax.jit
    def both_views(images: jax.Array, ratios: jax.Array) -> tuple[jax.Array, ...]:
        return make_views(keys[0], images, ratios, views, Preprocessing(image_size, MEAN, STD))

    def pillow_views(i: int) -> list[np.ndarray]:
        return [pillow_view(pictures[i], v, d, i, image_size) for v, d in zip(views, draws, strict=True)]

    def with_pillow(row: dict[str, float], function: Callable[[int], Any]) -> dict[str, float]:
        seconds = median_seconds(lambda: [function(i) for i in range(batch)] and None, repeats=3)
        return row | {"pillow_images_per_second": batch / seconds, "ratio": seconds / row["seconds"]}

    row = measure(both_views, (jnp.asarray(images), jnp.ones(batch)), rates, repeats)
    programs, differences, others = {"both views": with_pillow(row, pillow_views)}, {}, {}
    found = operations(images, view, draw(keys[0], view, images), image_size)
    for name, (ours, arguments, pillow) in found.items():
        function = jax.jit(jax.vmap(ours))
        programs[name] = with_pillow(measure(function, arguments, rates, repeats), pillow)
        differences[name] = difference(function(*arguments), [pillow(i) for i in range(batch)])
    for name, function in alternatives(view, image_size).items():
        used = name.split(":")[0]
        row = measure(jax.jit(jax.vmap(function)), found[used].arguments, rates, repeats)
        others[name] = row | {"times_slower": row["seconds"] / programs[used]["seconds"]}
    return {
        "matmul_flops_per_second": rates[0],
        "copy_bytes_per_second": rates[1],
        "programs": programs,
        "alternatives": others,
        "difference_from_pillow": differences,
    }


def show(results: dict[str, Any]) -> None:
    """Prints the tables."""
    print(f"{'program':36}{'images/s':>10}{'x floor':>9}{'Pillow, 1 core':>16}{'ratio':>8}")
    for name, row in (results["programs"] | results["alternatives"]).items():
        times = row["seconds"] / row["floor_seconds"]
        line = f"{name:36}{row['images_per_second']:10.0f}{times:9.1f}"
        if "ratio" in row:
            line += f"{row['pillow_images_per_second']:16.0f}{row['ratio']:8.1f}"
        print(line)
    print(f"\n{'difference from Pillow, levels':36}{'mean':>10}{'99 %':>9}{'max':>9}")
    for name, row in results["difference_from_pillow"].items():
        mean, percentile, maximum = row.values()
        print(f"{name:36}{mean:10.2f}{percentile:9.2f}{maximum:9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", default="vicreg", choices=RECIPES)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--canvas", type=int, default=256)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--channels", type=int, default=3, choices=(1, 3), help="Pillow supports 1 and 3")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = vars(parser.parse_args())
    output = arguments.pop("output")
    results = run(arguments.pop("recipe"), **arguments)
    show(results)
    write_results(output, results=results)


if __name__ == "__main__":
    main()
