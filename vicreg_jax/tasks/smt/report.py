"""`report.html` of a sparse manifold transform: what it looks for, and what it makes of it, to look at."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vicreg_jax.report.accuracies import facts, results
from vicreg_jax.report.chart import line_chart, number
from vicreg_jax.report.content import NeighborGrid
from vicreg_jax.report.curves import charts, figure
from vicreg_jax.report.page import render_page, write_page
from vicreg_jax.report.pictures import mosaic_element, neighbor_pictures
from vicreg_jax.smt.options import SMTOptions
from vicreg_jax.smt.transform import SMT
from vicreg_jax.tasks.smt.pictures import (
    diverging_tiles,
    embed_patches,
    embedded_images,
    image_tiles,
    patch_tiles,
    shrunk,
    unwhitened_atoms,
)

_SHOWN_ATOMS = 72
_DIMENSIONS = 12
_EXTREMES = 6  # atoms at each end of a dimension
_FIELDS = 6  # images over which a dimension is drawn
_FIELD_SIDE = 84  # about how many pixels high one is shown
_QUERIES = 8
_NEAREST = 8
_COMPARED_ATOMS = 8192  # among which the nearest are found

_FACTS = {
    "steps": "Chunks of images",
    "epochs": "Passes",
    "seconds": "Seconds",
    "images_per_second": "Images per second",
    "devices": "Devices",
    "patches": "Patches seen",
    "atoms": "Atoms",
    "active_atoms": "Active atoms",
    "empty_patches": "Empty patches",
    "embedding_dim": "Dimensions",
    "loss": "Sum of eigenvalues",
}
_CHARTS = {
    "active_atoms": (
        "Active atoms",
        "How many atoms a patch is like, on average, in the second pass. A few of many is a sparse code.",
    ),
    "empty_patches": (
        "Empty patches",
        "The share that is like no atom, so that nothing is known of it. Flat patches are empty always.",
    ),
    "images_per_second": (
        "Images per second",
        "Over all devices. The first pass only measures the patches; the second codes them and counts.",
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


def write_smt_report(
    path: Path,
    *,
    smt: SMT,
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    neighbors: NeighborGrid | None,
    class_names: Sequence[str] | None,
    warnings: Sequence[str] = (),
) -> None:
    """Writes the page, whole or not at all; what is None is left out, and said to be.

    Args:
      path: of the page.
      smt: fitted.
      summary: as in `summary.json`.
      config: every field, nested by section.
      metrics: the rows of `metrics.jsonl`, by step.
      neighbors: pictures; where its queries are of the size that the transform takes, the embedding is drawn over
        the first of them.
      class_names: by label.
      warnings: sentences that a person must not miss.
    """
    smt = jax.tree.map(np.asarray, smt)
    atoms = patch_tiles(unwhitened_atoms(smt), smt.options.patch_size)
    compared = _evenly(len(atoms), _COMPARED_ATOMS)
    atoms, dictionary = atoms[compared], np.asarray(smt.dictionary)[compared]
    # What the transform makes of a patch that looks like an atom.
    embeddings = embed_patches(smt, dictionary)
    images = None if neighbors is None else _fitting(neighbors.queries, smt.image_shape)
    sections = {
        "results": ("What it learned", results(summary)),
        "atoms": ("What it looks for", _atom_grid(smt.options, atoms, dictionary)),
        "fields": ("What its dimensions tell apart", _fields(smt, atoms, embeddings, images)),
        "nearest_atoms": ("Nearest atoms, before and after", _nearest_atoms(atoms, dictionary, embeddings)),
        "spectrum": ("Spectrum", _spectrum(smt)),
        "fit": ("How it went", charts(metrics, _CHARTS)),
        "neighbors": ("Nearest neighbors", neighbor_pictures(neighbors, class_names)),
    }
    page = render_page(
        f"{summary.get('method', 'smt')} on {summary.get('dataset', 'images')}",
        facts(_readable(summary), _FACTS),
        sections,
        config=config,
        warnings=warnings,
        style=_STYLE,
    )
    write_page(path, page)


def _readable(summary: Mapping[str, Any]) -> dict[str, Any]:
    readable = dict(summary)
    if readable.get("empty_patches") is not None:
        readable["empty_patches"] = f"{100 * readable['empty_patches']:.1f} %"
    if readable.get("patches") is not None:
        readable["patches"] = f"{readable['patches'] / 1e6:.3g} M"
    return readable


def _evenly(count: int, most: int) -> np.ndarray:
    """Indices of at most so many of `count` things, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _fitting(images: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray | None:
    """The first of the images, if the transform takes them."""
    return images[:_FIELDS] if images.shape[1:] == image_shape and len(images) else None


def _atom_grid(options: SMTOptions, atoms: np.ndarray, dictionary: np.ndarray) -> str:
    shown = _evenly(len(atoms), _SHOWN_ATOMS)
    count = "All" if len(shown) == options.atoms else f"{len(shown)} of"
    kind = "patches of training images" if options.dictionary == "patches" else "centers of clusters of patches"
    above = f"the atoms with which its cosine is above {options.threshold:g}"
    code = {
        "threshold": above,
        "threshold_or_nearest": f"{above}, or else the nearest",
        "nearest": "the atom with which its cosine is largest",
    }[options.code]
    figures = "".join(
        f"<figure>{mosaic_element(tiles, alt, columns=9, side=48)}<figcaption>{caption}</figcaption></figure>"
        for tiles, alt, caption in (
            (atoms[shown], f"{len(shown)} atoms", "As in an image"),
            (
                patch_tiles(dictionary[shown], options.patch_size),
                "The same atoms, whitened",
                "The same ones whitened, as patches are compared with them",
            ),
        )
    )
    return (
        f'<p class="muted">{count} {options.atoms} atoms: {kind}, less their mean, each in full contrast. The code of '
        f"a patch is {code}. Whitened, an atom should still be known for what it is, with its edges sharper: where it "
        "looks like noise, try a larger whitening ridge, and where nothing has changed a smaller one.</p>"
        f'<div class="pair">{figures}</div>'
    )


def _fields(smt: SMT, atoms: np.ndarray, embeddings: np.ndarray, images: np.ndarray | None) -> str:
    """For each of the first dimensions: the atoms at its two ends, and its values over images."""
    dimensions = min(_DIMENSIONS, embeddings.shape[1])
    ends = min(_EXTREMES, -(-len(atoms) // 2))
    heads = ["Dimension", '<span class="low">Lowest atoms</span>', '<span class="high">Highest atoms</span>']
    text = (
        "Each row is a dimension of the embedding, smoothest first: with the atoms that have the "
        '<span class="low">lowest</span> and the <span class="high">highest</span> value in it. '
    )
    if images is None:
        text += "No images of the size that the transform takes were kept to draw it over."
    else:
        window = smt.options.pool_window
        values = embedded_images(smt, images, dimensions)
        heads.append(
            mosaic_element(
                image_tiles(shrunk(images).astype(np.uint8)), "Test images", columns=_FIELDS, side=_FIELD_SIDE
            )
        )
        text += (
            f"Beside them its value over some test images, at every place the mean of {window} x {window} patches, as "
            "they are pooled for a feature: large fields of one color that follow something in the image are what to "
            "look for. Gray is too near the border."
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
            tiles = diverging_tiles(shrunk(values[..., d : d + 1] / (scale if scale > 0 else 1))[..., 0])
            alt = f"Dimension {d + 1} over the test images"
            cells.append(mosaic_element(tiles, alt, columns=_FIELDS, side=_FIELD_SIDE))
        rows.append(f'<tr><th scope="row"><b>{d + 1}</b></th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    return _table(text, heads, rows)


def _nearest_atoms(atoms: np.ndarray, dictionary: np.ndarray, embeddings: np.ndarray) -> str:
    """Some atoms, each with those nearest to it as whitened patches and in the embedding."""
    count = min(_NEAREST, len(atoms) - 1)
    if count == 0:
        return '<p class="muted">There is one atom.</p>'
    rows, shared = [], 0
    queries = _evenly(len(atoms), _QUERIES)
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
        "Some atoms, and those nearest to each by the cosine: of the whitened patches, and of their embeddings. "
        "Before, near is what has the same pixels; after, what occurs in the same images, such as an edge at another "
        f"place. Of {len(queries) * count} neighbors {shared} are the same before and after."
    )
    return _table(text, ["Atom", "Nearest as whitened patches", "Nearest in the embedding"], rows)


def _nearest(vectors: np.ndarray, query: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the unit vectors nearest to one of them, without it, and their cosines with it, largest first."""
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
    """The eigenvalues, as shares of what they are where patches of one image have nothing in common."""
    others = _patches_in_context(smt)
    if others == 0:
        return '<p class="muted">An image has one patch, so that no dimension differs within an image.</p>'
    eigenvalues = np.asarray(smt.eigenvalues, np.float64)
    skipped = f", after the first {smt.options.skip}, which are left out" if smt.options.skip else ""
    text = (
        "How much of a dimension differs within an image: 0 where all patches of an image have one value, 1 (dashed) "
        f"where they are as different as patches of any images. Smoothest first{skipped}. The eigenvalues, from "
        f"{number(eigenvalues[0])} to {number(eigenvalues[-1])}, are divided by {number(others)}, the other patches "
        "in a patch's context."
    )
    chart = line_chart(
        np.arange(1, len(eigenvalues) + 1).tolist(),
        (eigenvalues / others).tolist(),
        name="Share that differs within an image",
        x_label="dimension",
        reference=1.0,
    )
    return f'<p class="muted">{text}</p><div class="charts">{figure("Differs within an image", "", chart, "")}</div>'


def _patches_in_context(smt: SMT) -> float:
    """How many other patches are in a patch's context, on average."""
    context = smt.options.context
    within = [
        sum(min(i + context, size - 1) - max(i - context, 0) + 1 for i in range(size)) / size if context else size
        for size in smt.options.patch_grid(smt.image_shape)
    ]
    return math.prod(within) - 1
