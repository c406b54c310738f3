"""`report.html` of a sparse manifold transform: accuracies, its dictionary, its embedding and its spectrum."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vicreg_jax.report.accuracies import accuracy_table, facts
from vicreg_jax.report.chart import line_chart, number
from vicreg_jax.report.curves import chart_grid, charts, figure
from vicreg_jax.report.grids import NeighborGrid
from vicreg_jax.report.page import render_page, write_page
from vicreg_jax.report.pictures import mosaic_element, neighbor_pictures
from vicreg_jax.smt.options import SMTOptions
from vicreg_jax.smt.transform import SMT
from vicreg_jax.tasks.smt.pictures import (
    diverging_tiles,
    downscale,
    embed_patches,
    embedded_images,
    image_tiles,
    patch_tiles,
    unwhitened_atoms,
)

_MAX_ATOMS = 72  # in the picture of the dictionary
_DIMENSIONS = 12
_EXTREMES = 6  # atoms at each end of a dimension
_FIELDS = 6  # images over which a dimension is drawn
_FIELD_SIDE = 84  # approximate height of one of them, in pixels
_QUERIES = 8
_NEAREST = 8
_MAX_COMPARED_ATOMS = 8192  # searched for the nearest

_FACTS = {
    "steps": "Chunks of images",
    "epochs": "Passes",
    "seconds": "Seconds",
    "images_per_second": "Images per second",
    "devices": "Devices",
    "patches": "Patches",
    "atoms": "Atoms",
    "active_atoms": "Active atoms per patch",
    "empty_patches": "Empty patches",
    "embedding_dim": "Embedding dimension",
    "loss": "Sum of eigenvalues",
}
_BASELINES = {"raw_pixels": "raw pixels", "random_projection": "random projection of the same codes"}
_CHARTS = {
    "active_atoms": (
        "Active atoms per patch",
        "Mean number of nonzero entries of a code, in the second pass. A few out of many is a sparse code.",
    ),
    "empty_patches": (
        "Empty patches",
        "Fraction of patches whose code is zero, so that they add nothing to the features. Flat patches are always "
        "empty.",
    ),
    "input_wait": ("Waiting for input", "Share of the time that the devices had to wait for images."),
    "images_per_second": (
        "Images per second",
        "Over all devices. The first pass only measures the covariance of the patches; the second codes them and "
        "accumulates the statistics.",
    ),
}
_STYLE = """
img.mosaic { display: block; max-width: 100%; height: auto; image-rendering: pixelated; }
.pair { display: flex; flex-wrap: wrap; gap: 1.2rem 2rem; } .pair figure { margin: 0; }
.low { color: var(--line); } .high { color: #b0531a; }
@media (prefers-color-scheme: dark) { .high { color: #f09a5e; } }
#spectrum .charts { grid-template-columns: minmax(0, 34rem); }
.grid { border-collapse: separate; border-spacing: 0 .7rem; }
.grid th { font-size: .85rem; font-weight: 500; color: var(--muted); text-align: left; vertical-align: bottom; }
.grid tbody th { vertical-align: middle; line-height: 1.3; }
.grid tbody th b { display: block; color: var(--ink); font-size: 1rem; }
.grid th, .grid td { padding: 0 1.4rem 0 0; }
.grid img.mosaic { max-width: none; }
.grid small { color: var(--muted); font-size: .78rem; }
"""


@dataclass(frozen=True)
class SMTReport:
    """Content of the report; None fields are skipped, and the page says so.

    Attributes:
        smt: the fitted transform.
        summary: as in `summary.json`.
        config: every field, nested by section.
        metrics: rows of `metrics.jsonl`, by step.
        neighbors: test images and their nearest training images. The embedding is drawn over the first test images if
            they have the size of the transform's input.
        class_names: class name by label.
    """

    smt: SMT
    summary: Mapping[str, Any]
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    neighbors: NeighborGrid | None
    class_names: Sequence[str] | None


def write_smt_report(path: Path, content: SMTReport) -> None:
    """Write the report atomically."""
    summary, neighbors = content.summary, content.neighbors
    smt = jax.tree.map(np.asarray, content.smt)
    atoms = patch_tiles(unwhitened_atoms(smt), smt.options.patch_size)
    compared = _evenly_spaced(len(atoms), _MAX_COMPARED_ATOMS)
    atoms, dictionary = atoms[compared], np.asarray(smt.dictionary)[compared]
    # The embedding of a patch that equals an atom.
    embeddings = embed_patches(smt, dictionary)
    images = None if neighbors is None else _matching_images(neighbors.queries, smt.image_shape)
    sections = {
        "results": ("Accuracy", accuracy_table(summary, _BASELINES)),
        "atoms": ("Dictionary", _atom_grid(smt.options, atoms, dictionary)),
        "fields": ("Embedding dimensions", _fields(smt, atoms, embeddings, images)),
        "nearest_atoms": ("Nearest atoms, before and after embedding", _nearest_atoms(atoms, dictionary, embeddings)),
        "spectrum": ("Eigenvalue spectrum", _spectrum(smt)),
        "fit": ("Fitting curves", charts(content.metrics, _CHARTS)),
        "neighbors": ("Nearest neighbors", neighbor_pictures(neighbors, content.class_names)),
    }
    page = render_page(
        f"{summary.get('method', 'smt')} on {summary.get('dataset', 'images')}",
        facts(_readable(summary), _FACTS),
        sections,
        config=content.config,
        warnings=summary.get("data_warnings", ()),
        style=_STYLE,
    )
    write_page(path, page)


def _readable(summary: Mapping[str, Any]) -> dict[str, Any]:
    readable = dict(summary)
    if readable.get("empty_patches") is not None:
        readable["empty_patches"] = f"{100 * readable['empty_patches']:.1f}%"
    if readable.get("patches") is not None:
        readable["patches"] = f"{readable['patches'] / 1e6:.3g} M"
    return readable


def _evenly_spaced(count: int, max_count: int) -> np.ndarray:
    """At most `max_count` of the indices below `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, max_count)).round().astype(int))


def _matching_images(images: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray | None:
    """The first images, if they have the shape of the transform's input."""
    return images[:_FIELDS] if images.shape[1:] == image_shape and len(images) else None


def _atom_grid(options: SMTOptions, atoms: np.ndarray, dictionary: np.ndarray) -> str:
    shown = _evenly_spaced(len(atoms), _MAX_ATOMS)
    count = "All" if len(shown) == options.atoms else f"{len(shown)} of"
    kind = "patches of training images" if options.dictionary == "patches" else "centers of clusters of patches"
    above = f"the atoms with cosine similarity above {options.threshold:g}"
    code = {
        "threshold": above,
        "threshold_or_nearest": f"{above}, or else the nearest atom",
        "nearest": "the nearest atom by cosine similarity",
    }[options.code]
    figures = "".join(
        f"<figure>{mosaic_element(tiles, alt, columns=9, side=48)}<figcaption>{caption}</figcaption></figure>"
        for tiles, alt, caption in (
            (atoms[shown], f"{len(shown)} atoms", "In pixel space"),
            (patch_tiles(dictionary[shown], options.patch_size), "The same atoms, whitened", "Whitened"),
        )
    )
    return (
        f'<p class="muted">{count} {options.atoms} atoms: {kind}, mean removed, each scaled to full contrast. The code '
        f"of a whitened patch marks {code}. A whitened atom should look like the atom with sharper edges. If it looks "
        "like noise, try a larger whitening ridge; if nothing has changed, a smaller one.</p>"
        f'<div class="pair">{figures}</div>'
    )


def _fields(smt: SMT, atoms: np.ndarray, embeddings: np.ndarray, images: np.ndarray | None) -> str:
    """The first dimensions: the atoms at both ends of each, and its values over images."""
    dimensions = min(_DIMENSIONS, embeddings.shape[1])
    ends = min(_EXTREMES, -(-len(atoms) // 2))
    heads = ["Dimension", '<span class="low">Lowest atoms</span>', '<span class="high">Highest atoms</span>']
    text = (
        "Each row is a dimension of the embedding, smoothest first, with the atoms of the "
        '<span class="low">lowest</span> and the <span class="high">highest</span> value. '
    )
    if images is None:
        text += "No test images of the transform's input size to draw it over."
    else:
        window = smt.options.pool_window
        values = embedded_images(smt, images, dimensions)
        heads.append(
            mosaic_element(
                image_tiles(downscale(images).astype(np.uint8)), "Test images", columns=_FIELDS, side=_FIELD_SIDE
            )
        )
        text += (
            f"On the right, its value over test images, averaged over {window} x {window} patches as in the features. "
            "Look for large areas of one color that follow the content of the image. Gray: no value near the border."
        )
    rows = []
    for d in range(dimensions):
        order = np.argsort(embeddings[:, d], kind="stable")
        cells = [
            mosaic_element(atoms[end], f"Dimension {d + 1}: atoms with the {name} values", columns=3, side=30)
            for name, end in (("lowest", order[:ends]), ("highest", order[::-1][:ends]))
        ]
        if images is not None:
            scale = np.nanquantile(np.abs(values[..., d]), 0.99)
            tiles = diverging_tiles(downscale(values[..., d : d + 1] / (scale if scale > 0 else 1))[..., 0])
            alt = f"Dimension {d + 1} over the test images"
            cells.append(mosaic_element(tiles, alt, columns=_FIELDS, side=_FIELD_SIDE))
        rows.append(f'<tr><th scope="row"><b>{d + 1}</b></th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    return _table(text, heads, rows)


def _nearest_atoms(atoms: np.ndarray, dictionary: np.ndarray, embeddings: np.ndarray) -> str:
    """Some atoms, each with its nearest atoms as whitened patches and in the embedding."""
    count = min(_NEAREST, len(atoms) - 1)
    if count == 0:
        return '<p class="muted">The dictionary has only one atom.</p>'
    rows, shared = [], 0
    queries = _evenly_spaced(len(atoms), _QUERIES)
    for place, query in enumerate(queries, 1):
        cells = [mosaic_element(atoms[[query]], f"Atom {place}", columns=1, side=48)]
        before, after = (_nearest(vectors, query, count) for vectors in (dictionary, embeddings))
        for (nearest, cosines), name in ((before, "as whitened patches"), (after, "in the embedding")):
            alt = f"Nearest to atom {place} {name}"
            picture = mosaic_element(atoms[nearest], alt, columns=count, side=40)
            cells.append(f"{picture}<small>cosine {cosines[0]:.2f} to {cosines[-1]:.2f}</small>")
        shared += len(np.intersect1d(before[0], after[0]))
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    text = (
        "Some atoms, each with its nearest atoms by cosine similarity: of the whitened patches, and of their "
        "embeddings. Whitened patches are near if their pixels are similar; embeddings are near if the patches occur "
        f"in the same images, such as a shifted edge. {shared} of {len(queries) * count} neighbors are the same."
    )
    return _table(text, ["Atom", "Nearest as whitened patches", "Nearest in the embedding"], rows)


def _nearest(vectors: np.ndarray, query: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The unit vectors nearest to one of them, itself excluded: indices and cosines, largest cosine first."""
    cosines = vectors @ vectors[query]
    cosines[query] = -np.inf
    nearest = np.argsort(-cosines, kind="stable")[:count]
    return nearest, cosines[nearest]


def _table(text: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<p class="muted">{text}</p><div class="scroll"><table class="grid"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _spectrum(smt: SMT) -> str:
    """The eigenvalues, relative to those of patches that are independent within an image."""
    others = _patches_in_context(smt)
    if others == 0:
        return '<p class="muted">None: an image has only one patch, so no dimension varies within an image.</p>'
    eigenvalues = np.asarray(smt.eigenvalues, np.float64)
    skipped = f" The first {smt.options.skip} are skipped." if smt.options.skip else ""
    text = (
        "How much each dimension varies within an image, smoothest first. 0: all patches of an image have the same "
        f"value; 1 (dashed): they differ as much as patches of different images.{skipped} The eigenvalues, from "
        f"{number(eigenvalues[0])} to {number(eigenvalues[-1])}, are divided by {number(others)}, the number of other "
        "patches in a patch's context."
    )
    chart = line_chart(
        np.arange(1, len(eigenvalues) + 1).tolist(),
        (eigenvalues / others).tolist(),
        name="Relative variation within an image",
        x_label="dimension",
        reference=1.0,
    )
    card = figure("Relative variation within an image", "", chart, "")
    return f'<p class="muted">{text}</p>{chart_grid([card])}'


def _patches_in_context(smt: SMT) -> float:
    """Mean number of other patches in a patch's context."""
    context = smt.options.context
    within = [
        sum(min(i + context, size - 1) - max(i - context, 0) + 1 for i in range(size)) / size if context else size
        for size in smt.options.patch_grid(smt.image_shape)
    ]
    return math.prod(within) - 1
