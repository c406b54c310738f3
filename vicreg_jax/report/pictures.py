"""Small pictures inside a page: arrays as `<img>` elements that carry their own data."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from vicreg_jax.report.content import NeighborGrid, ViewGrid

if TYPE_CHECKING:
    import PIL.Image

_LARGEST = 96  # pixels a side; larger pictures are scaled down, so that a page stays small
_GAP = 4  # pixels between the tiles of a mosaic
_NONE = '<p class="muted">No pictures were kept.</p>'


def image_element(image: np.ndarray, alt: str) -> str:
    """An `<img>` element that holds the picture.

    Args:
      image: uint8 `[height, width, channels]`. One channel is shown gray, three or more as the colors of the
        first three, two as the first alone.
      alt: what is seen, for those who cannot.
    """
    from PIL import Image

    shown = image[..., :3] if image.shape[2] >= 3 else image[..., 0]
    picture = Image.fromarray(np.ascontiguousarray(shown))
    small = max(picture.size) <= _LARGEST
    picture.thumbnail((_LARGEST, _LARGEST))
    sharp = ' class="pixels"' if max(picture.size) < 48 else ""
    # Pictures of a few pixels are shown exactly, enlarged by the browser; scaled ones need no such care.
    return f'<img{sharp} alt="{escape(alt)}" src="{_address(picture, "png" if small else "jpeg")}">'


def mosaic_element(tiles: np.ndarray, alt: str, *, columns: int, side: int) -> str:
    """An `<img>` element that shows many small pictures, in rows.

    Args:
      tiles: uint8 `[tiles, height, width, 4]`: red, green, blue, opacity.
      alt: what is seen, for those who cannot.
      columns: tiles in a row.
      side: about how many pixels high a tile is shown; its own pixels stay exact squares.
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
        f'src="{_address(Image.fromarray(picture), "png")}">'
    )


def _address(picture: "PIL.Image.Image", form: str) -> str:
    """An address that holds the picture itself."""
    file = io.BytesIO()
    picture.save(file, form, **({"quality": 88} if form == "jpeg" else {}))
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"


def view_pictures(grid: ViewGrid | None) -> str:
    """Training images, each with its views below it."""
    if grid is None:
        return _NONE
    heads = ["Image", *(f"View {i + 1}" for i in range(len(grid.views)))]
    rows = "".join(
        f'<tr><th scope="row">{head}</th>'
        + "".join(f"<td>{image_element(image, f'{head}, number {i + 1}')}</td>" for i, image in enumerate(images))
        + "</tr>"
        for head, images in zip(heads, (grid.originals, *grid.views), strict=True)
    )
    return (
        '<p class="muted">Training images, and below each the random views it was given as: the network '
        'learns that these show the same thing.</p><div class="scroll"><table class="pictures">'
        f"<tbody>{rows}</tbody></table></div>"
    )


def neighbor_pictures(grid: NeighborGrid | None, class_names: Sequence[str] | None) -> str:
    """Test images, each beside its nearest training images, which are marked right or wrong."""
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
    return (
        '<p class="muted">Each row begins with a test image; beside it are the training images whose '
        "features are most similar, nearest first, with the cosine between them. ✓ marks the same class, "
        "✗ another.</p>"
        f'<div class="queries">{"".join(rows)}</div>'
    )


def _class_name(label: int, class_names: Sequence[str] | None) -> str:
    return class_names[label] if class_names is not None and 0 <= label < len(class_names) else str(label)


def _picture(image: np.ndarray, alt: str, caption: str) -> str:
    return f"<figure>{image_element(image, alt)}<figcaption>{caption}</figcaption></figure>"
