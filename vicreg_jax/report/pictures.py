"""Small images inside a page: arrays as `<img>` elements with their data embedded."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from vicreg_jax.report.grids import NeighborGrid, ViewGrid

if TYPE_CHECKING:
    import PIL.Image

_MAX_SIDE = 96  # pixels; larger images are scaled down to keep the page small
_MIN_SMOOTH_SIDE = 48  # pixels; the browser enlarges smaller images without smoothing
_GAP = 4  # pixels between the tiles of a mosaic
_NONE = '<p class="muted">No images to show.</p>'


def image_element(image: np.ndarray, alt: str) -> str:
    """Render an `<img>` element.

    Args:
        image: uint8 `[height, width, channels]`. One channel is shown in gray, two as the first in gray, three or more
            as the RGB of the first three.
        alt: description for screen readers.
    """
    from PIL import Image

    shown = image[..., :3] if image.shape[2] >= 3 else image[..., 0]
    picture = Image.fromarray(np.ascontiguousarray(shown))
    # Small images keep every pixel; scaled ones are lossy anyway.
    form = "png" if max(picture.size) <= _MAX_SIDE else "jpeg"
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
    sharp = ' class="pixels"' if max(picture.size) < _MIN_SMOOTH_SIDE else ""
    return f'<img{sharp} alt="{escape(alt)}" src="{_data_url(picture, form)}">'


def mosaic_element(tiles: np.ndarray, alt: str, *, columns: int, side: int) -> str:
    """Render one `<img>` element that shows many small images, in rows.

    Args:
        tiles: uint8 `[tiles, height, width, 4]`: red, green, blue, opacity.
        alt: description for screen readers.
        columns: tiles per row.
        side: approximate height of a tile on the page, in pixels; tiles are enlarged by a whole factor.
    """
    from PIL import Image

    count, height, width, _ = tiles.shape
    scale = max(1, round(side / height))
    height, width = height * scale + _GAP, width * scale + _GAP
    columns = min(columns, count)
    picture = np.zeros((-(-count // columns) * height, columns * width, 4), np.uint8)
    for index, tile in enumerate(tiles.repeat(scale, axis=1).repeat(scale, axis=2)):
        top, left = index // columns * height, index % columns * width
        picture[top : top + height - _GAP, left : left + width - _GAP] = tile
    picture = picture[:-_GAP, :-_GAP]
    return (
        f'<img class="mosaic" alt="{escape(alt)}" width="{picture.shape[1]}" height="{picture.shape[0]}" '
        f'src="{_data_url(Image.fromarray(picture), "png")}">'
    )


def _data_url(picture: "PIL.Image.Image", form: str) -> str:
    """A `data:` URL that holds the image."""
    file = io.BytesIO()
    picture.save(file, form, **({"quality": 88} if form == "jpeg" else {}))
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"


def image_rows(rows: Mapping[str, Sequence[np.ndarray]]) -> str:
    """Arrange images in titled rows.

    Args:
        rows: by title, images uint8 `[height, width, channels]`; the same number per row.
    """
    body = "".join(
        f'<tr><th scope="row">{title}</th>'
        + "".join(f"<td>{image_element(image, f'{title}, number {i + 1}')}</td>" for i, image in enumerate(images))
        + "</tr>"
        for title, images in rows.items()
    )
    return f'<div class="scroll"><table class="pictures"><tbody>{body}</tbody></table></div>'


def view_pictures(grid: ViewGrid | None) -> str:
    """Show training images, each with its views below it."""
    if grid is None:
        return _NONE
    views = {f"View {i}": list(images) for i, images in enumerate(grid.views, 1)}
    return (
        '<p class="muted">Training images and, below each, its random views in the first training step.</p>'
        + image_rows({"Image": list(grid.originals)} | views)
    )


def neighbor_pictures(grid: NeighborGrid | None, class_names: Sequence[str] | None) -> str:
    """Show test images, each beside its nearest training images, marked by whether the class is the same."""
    if grid is None:
        return _NONE
    rows = []
    for i, (query, neighbors) in enumerate(zip(grid.queries, grid.neighbors, strict=True)):
        label = None if grid.query_labels is None else int(grid.query_labels[i])
        name = "" if label is None else escape(_class_name(label, class_names))
        figures = [_picture(query, f"Test image {i + 1}", f"<b>{name}</b>")]
        for j, neighbor in enumerate(neighbors):
            caption = ""
            if label is not None and grid.neighbor_labels is not None:
                other = int(grid.neighbor_labels[i, j])
                verdict, mark = ("right", "✓") if other == label else ("wrong", "✗")
                caption = f'<span class="{verdict}">{mark} {escape(_class_name(other, class_names))}</span> '
            if grid.similarities is not None:
                caption += f"{grid.similarities[i, j]:.2f}"
            figures.append(_picture(neighbor, f"Neighbor {j + 1} of test image {i + 1}", caption))
        rows.append(f'<div class="query">{"".join(figures)}</div>')
    text = (
        "Each row starts with a test image, followed by the training images with the most similar features, nearest "
        "first, with their cosine similarity."
    )
    if grid.query_labels is not None and grid.neighbor_labels is not None:
        text += " ✓ marks the same class, ✗ a different one."
    return f'<p class="muted">{text}</p><div class="queries">{"".join(rows)}</div>'


def _class_name(label: int, class_names: Sequence[str] | None) -> str:
    return class_names[label] if class_names is not None and 0 <= label < len(class_names) else str(label)


def _picture(image: np.ndarray, alt: str, caption: str) -> str:
    return f"<figure>{image_element(image, alt)}<figcaption>{caption}</figcaption></figure>"
