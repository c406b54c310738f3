"""Ablation of the sparse manifold transform on Fashion-MNIST: one setting changed at a time.

    python -m benchmarks.experiments.smt_fashion_mnist --manual_dir=DIR    # of the IDX files; default: tfds downloads

All images come from the training split: the transform is fitted to the first `--fit_images`, the nearest-neighbor
classifier stores the first `--bank_images`, and accuracy is measured on the last 5,000. Finished settings are read from
the JSON file and not repeated.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.measure import environment
from vicreg_jax.data import load_dataset
from vicreg_jax.evaluation.knn import knn_accuracy
from vicreg_jax.smt import fit, transform

BASE: dict[str, Any] = {
    "patch_size": 6,
    "whitening_ridge": 0.3,
    "atoms": 512,
    "dictionary": "patches",
    "max_cosine": 0.9,
    "code": "threshold",
    "threshold": 0.15,
    "context": None,
    "embedding_dim": 32,
    "skip": 0,
    "ridge": 0.0,
    "pool_window": 4,
    "pool_stride": 3,
    "pool_cells": 7,
    "flips": False,
}
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    *({"whitening_ridge": value} for value in (1e-3, 1e-2, 0.1, 1.0)),
    *({"threshold": value} for value in (0.05, 0.3, 0.5)),
    *({"embedding_dim": value} for value in (8, 16, 64, 128)),
    *({"skip": value} for value in (1, 4, 8, 16)),
    *({"pool_cells": value} for value in (2, 3, 5)),
    {"pool_cells": 10, "pool_stride": 2},
    {"patch_size": 4},
    {"patch_size": 8, "pool_cells": 6},
    *({"max_cosine": value} for value in (0.7, 1.0)),
    *({"code": value} for value in ("threshold_or_nearest", "nearest")),
    {"dictionary": "kmeans"},
    *({"context": value} for value in (2, 4, 8)),
    {"ridge": 1e-2},
    *({"atoms": value} for value in (128, 1024, 2048)),
    {"flips": True},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manual_dir", help="directory of the IDX files")
    parser.add_argument("--fit_images", type=int, default=2000)
    parser.add_argument("--bank_images", type=int, default=10000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/smt_fashion_mnist.json"))
    arguments = parser.parse_args()
    train, train_labels = _images(f"train[:{arguments.bank_images}]", arguments.manual_dir)
    test, test_labels = _images("train[-5000:]", arguments.manual_dir)
    results = json.loads(arguments.output.read_text())["results"] if arguments.output.exists() else []

    def accuracy(train_features: np.ndarray, test_features: np.ndarray) -> float:
        return knn_accuracy(
            (train_features, train_labels),
            (test_features, test_labels),
            num_classes=10,
            neighbors=30,
            temperature=0.03,
        )

    raw = accuracy(train.reshape(len(train), -1), test.reshape(len(test), -1))
    print(f"raw pixels {raw:.4f}", flush=True)
    for change in CHANGES:
        settings = BASE | change
        if any(row["settings"] == settings and row["fit_images"] == arguments.fit_images for row in results):
            continue
        started = time.perf_counter()
        smt = fit(train[: arguments.fit_images], key=jax.random.key(0), **settings)
        result = accuracy(np.asarray(transform(smt, train)), np.asarray(transform(smt, test)))
        results.append(
            {
                "change": change,
                "knn_accuracy": result,
                "seconds": round(time.perf_counter() - started, 1),
                "fit_images": arguments.fit_images,
                "settings": settings,
            }
        )
        print(f"{change}: {result:.4f}, {results[-1]['seconds']} s", flush=True)
        content = environment() | {"bank_images": arguments.bank_images, "raw_pixels": raw, "results": results}
        arguments.output.write_text(json.dumps(content, indent=1) + "\n")


def _images(split: str, manual_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    data = load_dataset("fashion_mnist", split, manual_dir=manual_dir, image_size=28)
    examples = [data[index] for index in range(len(data))]
    return np.stack([e["image"] for e in examples]), np.array([e["label"] for e in examples])


if __name__ == "__main__":
    main()
