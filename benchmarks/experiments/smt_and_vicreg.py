"""The sparse manifold transform's closed form beside VICReg's gradient descent, on the same codes of the digits.

    python -m benchmarks.experiments.smt_and_vicreg

docs/methods/smt_and_vicreg.md explains the comparison and its results.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.linalg import subspace_angles
from sklearn.datasets import load_digits

from benchmarks.measure import write_results
from vicreg_jax.losses import vicreg_loss
from vicreg_jax.smt import patch_statistics, spectral_embedding
from vicreg_jax.smt.code import nearest_code
from vicreg_jax.smt.patches import centered_patches
from vicreg_jax.smt.whitening import whiten, whitening_matrix

DIM = 8
SEEDS = (0, 1, 2)
STEPS = (300, 1000, 3000)
# Weights of invariance, variance and covariance.
BEST = (1, 4, 1)
WEIGHTS = (
    (1, 4, 0.1),
    BEST,
    (1, 4, 10),
    (1, 4, 100),
    (1, 40, 10),
    (1, 3, 1),
    (25, 25, 1),
    (1, 4, 0),
    (0, 4, 1),
)
BATCHES = (16, 64)  # images per step, instead of all


def digit_codes() -> np.ndarray:
    """One-sparse codes of all patches of 400 digits, computed as in `smt.fit`: float32 `[400, 16, 64]`.

    Patches of this size are never flat, so every code has exactly one active atom.
    """
    patches = centered_patches(jnp.float32(load_digits().images[:400, ..., None] / 16), patch_size=5)
    flat = patches.reshape(-1, 25)
    whitened = whiten(patches, whitening_matrix(flat.T @ flat / len(flat), 1e-3))
    return np.asarray(nearest_code(whitened, whitened.reshape(-1, 25)[::101]), np.float32)


def closed_form(codes: np.ndarray, dim: int) -> np.ndarray:
    """The transform's P times the square root of N - 1, for unit variance: float64 `[dim, atoms]`."""
    with jax.enable_x64(True):
        V, L = patch_statistics(codes.astype(np.float64))
        P = np.asarray(jax.jit(partial(spectral_embedding, dim=dim, skip=1))(V, L))
    return np.sqrt(codes[..., 0].size - 1) * P


@partial(jax.jit, static_argnames=("dim", "steps", "batch"))
def descend(
    codes: jax.Array,
    key: jax.Array,
    weights: jax.Array,
    *,
    dim: int = DIM,
    steps: int = 1000,
    batch: int | None = None,
    learning_rate: float = 0.3,
) -> jax.Array:
    """Minimizes `vicreg_loss` over linear maps of the codes, with Adam.

    One view holds all patches; the other pairs each with another patch of the same image.

    Args:
        codes: `[images, patches, atoms]`.
        key: PRNG key of the initial map and of the views.
        weights: weights of invariance, variance and covariance.
        dim: output dimension of the map.
        steps: number of steps.
        batch: images per step; None: all.
        learning_rate: initial learning rate of a cosine decay to 0.

    Returns:
        The map, float32 `[dim, atoms]`.
    """
    images, patches, atoms = codes.shape
    start_key, steps_key = jax.random.split(key)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss(P: jax.Array, key: jax.Array) -> jax.Array:
        shift_key, batch_key = jax.random.split(key)
        chosen = codes if batch is None else codes[jax.random.choice(batch_key, images, (batch,), replace=False)]
        z_a = chosen @ P.T
        z_b = jnp.roll(z_a, jax.random.randint(shift_key, (), 1, patches), axis=1)
        terms = vicreg_loss(z_a.reshape(-1, dim), z_b.reshape(-1, dim))
        return weights @ jnp.stack([terms.invariance, terms.variance, terms.covariance])

    def step(carry: tuple[jax.Array, Any], key: jax.Array) -> tuple[tuple[jax.Array, Any], None]:
        P, state = carry
        updates, state = optimizer.update(jax.grad(loss)(P, key), state)
        return (P + updates, state), None

    P = jax.random.normal(start_key, (dim, atoms))
    (P, _), _ = jax.lax.scan(step, (P, optimizer.init(P)), jax.random.split(steps_key, steps))
    return P


def invariance(z: np.ndarray) -> np.ndarray:
    """Mean squared difference between two patches of one image: `[images, patches, dim]` -> `[dim]`."""
    return 2 * z.var(axis=1, ddof=1).mean(axis=0)


def expected_spectrum(least: np.ndarray, weights: tuple[float, ...]) -> np.ndarray | None:
    """Eigenvalues of the embeddings' covariance at the minimum of the soft loss.

    Args:
        least: the invariance of each dimension of the closed form, in ascending order.
        weights: weights of invariance, variance and covariance.

    Returns:
        The eigenvalues in descending order, `[dim]`; None if the standard deviations at the minimum are not 1, or if
        the weights do not determine them.
    """
    invariance_weight, variance_weight, covariance_weight = weights
    if covariance_weight == 0 or not 0 < 2 * invariance_weight * least.mean() <= variance_weight:
        return None
    spectrum = 1 - invariance_weight * (least - least.mean()) / (4 * covariance_weight)
    return spectrum if spectrum.min() > 0 else None


def compare(P: np.ndarray, codes: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """Distance of a map found by gradient descent from the closed form.

    Args:
        P: the map, `[dim, atoms]`.
        codes: `[images, patches, atoms]`.
        exact: the closed form, `[dim, atoms]`.

    Returns:
        A dictionary of scalars and one list. `overlap`: mean squared cosine of the principal angles between the two
        spaces of centered embeddings, which are the angles between the row spaces in the metric of V. `largest_angle`:
        the maximum of these angles, in degrees. `least_std`, `most_std` and `largest_correlation`: over dimensions.
        `spectrum`: eigenvalues of the covariance, descending. `invariance` and `invariance_at_constraint`: relative to
        the closed form, the latter for embeddings whitened to unit variance.
    """
    (dim, _), (images, patches, _) = P.shape, codes.shape
    z, z_exact = (codes.reshape(images * patches, -1) @ each.T for each in (P.astype(np.float64), exact))
    z, z_exact = z - z.mean(axis=0), z_exact - z_exact.mean(axis=0)
    covariance = np.cov(z.T)
    std = np.sqrt(np.diag(covariance))
    angles = subspace_angles(z, z_exact)
    orthogonal = np.linalg.svd(z, full_matrices=False)[0] * np.sqrt(len(z) - 1)
    least = invariance(z_exact.reshape(images, patches, dim)).mean()
    return {
        "overlap": float(np.sum(np.cos(angles) ** 2) / dim),
        "largest_angle": float(np.degrees(angles.max())),
        "least_std": float(std.min()),
        "most_std": float(std.max()),
        "largest_correlation": float(np.abs(covariance / np.outer(std, std) - np.eye(dim)).max()),
        "spectrum": np.linalg.eigvalsh(covariance)[::-1].tolist(),
        "invariance": float(invariance(z.reshape(images, patches, dim)).mean() / least),
        "invariance_at_constraint": float(invariance(orthogonal.reshape(images, patches, dim)).mean() / least),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/smt_and_vicreg.json"))
    arguments = parser.parse_args()
    codes = digit_codes()
    exact = closed_form(codes, DIM)
    least = invariance(codes @ closed_form(codes, DIM + 1).T)
    print(f"invariance of the closed form's dimensions: {least[:DIM].round(2)}, the next one {least[DIM]:.2f}")
    names = ["weights", "images per step", *(f"{steps} steps" for steps in STEPS), "std", "correlation", "invariance"]
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    rows = []
    for weights, batch in [*((weights, None) for weights in WEIGHTS), *((BEST, batch) for batch in BATCHES)]:
        runs = [
            {"steps": steps, "seed": seed, **compare(_descended(codes, weights, batch, steps, seed), codes, exact)}
            for steps in STEPS
            for seed in SEEDS
        ]
        expected = expected_spectrum(least[:DIM], weights)
        rows.append(
            {
                "weights": weights,
                "images_per_step": batch or len(codes),
                "expected_spectrum": None if expected is None else expected.tolist(),
                "runs": runs,
            }
        )
        by_steps = [[run for run in runs if run["steps"] == steps] for steps in STEPS]
        cells = [", ".join(map(str, weights)), str(batch or len(codes)), *(_cell(runs, "overlap") for runs in by_steps)]
        last = ("least_std", "largest_correlation", "invariance_at_constraint")
        cells += [_cell(by_steps[-1], name) for name in last]
        print("| " + " | ".join(cells) + " |", flush=True)
        if expected is not None:
            apart = max(np.abs(np.array(run["spectrum"]) - expected).max() for run in by_steps[-1])
            print(f"    spectrum within {apart:.4f} of {expected.round(3)}", flush=True)
    write_results(arguments.output, images=len(codes), dim=DIM, least_invariance=least.tolist(), results=rows)


def _descended(codes: np.ndarray, weights: tuple[float, ...], batch: int | None, steps: int, seed: int) -> np.ndarray:
    P = descend(codes, jax.random.key(seed), jnp.array(weights, jnp.float32), steps=steps, batch=batch)
    return np.asarray(P)


def _cell(runs: list[dict[str, Any]], name: str) -> str:
    """Minimum and maximum over seeds."""
    least, most = (f"{extreme(run[name] for run in runs):.3f}" for extreme in (min, max))
    return least if least == most else f"{least} to {most}"


if __name__ == "__main__":
    main()
