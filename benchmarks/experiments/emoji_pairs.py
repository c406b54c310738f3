"""Two networks that share no weights, on real pairs: emoji as two makers draw them. VICReg beside InfoNCE and SIGReg.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 --pack-destination=runs   # MIT
    for maker in google twitter; do
        mkdir -p runs/$maker && tar -xzf runs/emoji-datasource-$maker-16.0.0.tgz -C runs/$maker
    done
    python -m benchmarks.experiments.emoji_pairs runs/google/package/img/google/64 runs/twitter/package/img/twitter/64

A fifth of the emoji is held out: each of its drawings looks for its partner among those of the other maker, by cosine.
`--validate` measures the settings of `GRID` on a fifth of the other emoji instead; `CHOSEN` has the best of each loss.

To train on pairs of your own, replace `read_pairs`, and `NETWORKS` by one network for each side.
"""

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from PIL import Image

from benchmarks.measure import write_results
from vicreg_jax.augment import Preprocessing, View, central_view, make_view
from vicreg_jax.evaluation import nearest_neighbors
from vicreg_jax.losses import info_nce_loss, multi_view_invariance, sigreg, vicreg_loss
from vicreg_jax.models import Head, create_backbone

SEEDS = (0, 1, 2)
BATCH, EPOCHS, LEARNING_RATE = 256, 60, 3e-3
VIEW = View(
    crop_area=(0.7, 1.0),
    interpolation="bilinear",
    flip_probability=0.0,
    jitter_probability=0.0,
    grayscale_probability=0.0,
)
PREPROCESSING = Preprocessing(image_size=32, mean=(0.5,), std=(0.25,))
# One setting of each loss: VICReg's covariance weight, InfoNCE's temperature, the weight of SIGReg.
GRID = {"vicreg": (1.0, 5.0, 25.0, 100.0), "info_nce": (0.05, 0.07, 0.1, 0.2), "sigreg": (0.002, 0.02, 0.05, 0.2)}
CHOSEN = {"vicreg": 25.0, "info_nce": 0.1, "sigreg": 0.02}


class Network(nn.Module):
    """A tiny ResNet and a head: images to embeddings `[batch, 128]`."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Map normalized images `[batch, 32, 32, 3]` to embeddings."""
        features = create_backbone("resnet_tiny")(images, train=train)
        return Head((256, 128))(features, train=train)


NETWORKS = (Network(), Network())


def compare(method: str, setting: float, z_a: jax.Array, z_b: jax.Array, key: jax.Array) -> jax.Array:
    """The loss of the embeddings of both sides, `[batch, dim]`."""
    if method == "vicreg":
        return vicreg_loss(z_a, z_b, covariance_weight=setting).loss
    if method == "info_nce":
        return info_nce_loss(z_a, z_b, temperature=setting, symmetric=True)
    normality = (sigreg(z_a, key=key, slices=256) + sigreg(z_b, key=key, slices=256)) / 2
    return (1 - setting) * multi_view_invariance(jnp.stack([z_a, z_b]), global_views=2) + setting * normality


def train(pairs: Any, method: str, setting: float, seed: int, epochs: int) -> Any:
    """Train both networks on pairs of images uint8 `[2, pairs, side, side, 3]`, and return their variables."""
    steps = pairs.shape[1] // BATCH * epochs
    schedule = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, steps // 10, steps)
    optimizer = optax.adamw(schedule, weight_decay=0.05)
    pairs = jnp.asarray(pairs)

    def loss(params: Any, batch_stats: Any, views: Any, key: jax.Array) -> Any:
        outputs = [
            network.apply({"params": p, "batch_stats": s}, view, train=True, mutable=["batch_stats"])
            for network, p, s, view in zip(NETWORKS, params, batch_stats, views, strict=True)
        ]
        (z_a, z_b), updated = zip(*outputs, strict=True)
        return compare(method, setting, z_a, z_b, key), [changes["batch_stats"] for changes in updated]

    @jax.jit
    def train_step(params: Any, batch_stats: Any, opt_state: Any, key: jax.Array) -> Any:
        of_batch, *of_views, of_loss = jax.random.split(key, 4)
        rows = jax.random.choice(of_batch, pairs.shape[1], (BATCH,), replace=False)
        views = [
            make_view(k, side[rows], jnp.ones(BATCH), VIEW, PREPROCESSING)
            for k, side in zip(of_views, pairs, strict=True)
        ]
        gradient, batch_stats = jax.grad(loss, has_aux=True)(params, batch_stats, views, of_loss)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), batch_stats, opt_state

    params, batch_stats = init(seed)
    opt_state = optimizer.init(params)
    for step in range(steps):
        key = jax.random.fold_in(jax.random.key(seed), step)
        params, batch_stats, opt_state = train_step(params, batch_stats, opt_state, key)
    return params, batch_stats


def init(seed: int) -> Any:
    """Parameters and batch statistics of both networks, each from a key of its own."""
    images = jnp.zeros((2, 32, 32, 3))
    variables = [
        network.init(key, images) for network, key in zip(NETWORKS, jax.random.split(jax.random.key(seed)), strict=True)
    ]
    return [v["params"] for v in variables], [v["batch_stats"] for v in variables]


@jax.jit
def embed(params: Any, batch_stats: Any, pairs: jax.Array) -> Any:
    """The embeddings of both sides of the pairs, each `[pairs, dim]`."""
    return [
        network.apply({"params": p, "batch_stats": s}, pixels(side))
        for network, p, s, side in zip(NETWORKS, params, batch_stats, pairs, strict=True)
    ]


def pixels(images: jax.Array) -> jax.Array:
    """What the networks see: `[batch, 32, 32, 3]`, normalized."""
    return central_view(images, jnp.ones(len(images)), PREPROCESSING)


def recalls(left: Any, right: Any) -> dict[str, float]:
    """The share of rows whose partner is the nearest of the other side, or one of the five nearest, both ways."""
    partner = np.arange(len(left))[:, None]
    found = {
        way: np.asarray(nearest_neighbors(bank, queries, neighbors=5).indices) == partner
        for way, bank, queries in (("left_to_right", right, left), ("right_to_left", left, right))
    }
    return {f"{way}_at_{k}": float(hits[:, :k].any(1).mean()) for way, hits in found.items() for k in (1, 5)}


def read_pairs(left: Path, right: Path) -> np.ndarray:
    """The drawings that both folders have, on white, uint8 `[2, pairs, 64, 64, 3]`.

    Other skin tones of an emoji are left out: nearly the same drawings would be on both sides of the split.
    """
    names = sorted({path.name for path in left.glob("*.png")} & {path.name for path in right.glob("*.png")})
    names = [name for name in names if not re.search("-1f3f[b-f]", name)]
    return np.stack([[_read(folder / name) for name in names] for folder in (left, right)])


def _read(path: Path) -> np.ndarray:
    drawing = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", drawing.size, "white")
    return np.asarray(Image.alpha_composite(white, drawing).convert("RGB"))


def hold_out(pairs: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four fifths of the pairs, and the others."""
    rows = np.random.default_rng(seed).permutation(pairs.shape[1])
    return pairs[:, rows[pairs.shape[1] // 5 :]], pairs[:, rows[: pairs.shape[1] // 5]]


def run(pairs: Any, test: Any, method: str, setting: float, seed: int, epochs: int) -> Any:
    """Train, and look for the partners of the test pairs."""
    start = time.process_time()
    state = train(pairs, method, setting, seed, epochs)
    row = {"method": method, "setting": setting, "seed": seed}
    row |= recalls(*embed(*state, test)) | {"cpu_seconds": round(time.process_time() - start, 1)}
    print(json.dumps(row), flush=True)
    return row


def baselines(pairs: Any, test: Any) -> Any:
    """The recalls of raw pixels without the mean training image of their side, and of networks before training."""
    centered = [pixels(found) - pixels(seen).mean(0) for found, seen in zip(test, pairs, strict=True)]
    raw = recalls(*(side.reshape(len(side), -1) for side in centered))
    return {"raw_pixels": raw, "random_networks": [recalls(*embed(*init(seed), test)) for seed in SEEDS]}


def main(arguments: list[str] | None = None) -> None:
    """Train with the chosen settings and three seeds, or with `--validate` once with each setting of the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("left", type=Path, help="folder of drawings")
    parser.add_argument("right", type=Path, help="folder of drawings with the same names")
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    pairs, test = hold_out(read_pairs(options.left, options.right))
    if options.validate:
        pairs, test = hold_out(pairs)
        runs = [(method, setting, 0) for method, settings in GRID.items() for setting in settings]
    else:
        runs = [(method, CHOSEN[method], seed) for method in GRID for seed in SEEDS]
    counts = {"pairs": pairs.shape[1], "held_out_pairs": test.shape[1], "epochs": options.epochs}
    results = counts | {"baselines": baselines(pairs, test), "runs": []}
    for settings in runs:
        results["runs"].append(run(pairs, test, *settings, epochs=options.epochs))
        write_results(options.output, **results)


if __name__ == "__main__":
    main()
