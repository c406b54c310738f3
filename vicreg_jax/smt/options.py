"""Settings of the transform; the config section `method` has the same fields."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SMTOptions:
    """Settings of a sparse manifold transform.

    The defaults are the recipe for CIFAR-10 as far as it is known (docs/methods/smt.md), except for the number of
    atoms, which is 8192 there.

    Attributes:
        patch_size: side of a patch in pixels.
        whitening_ridge: added to the eigenvalues of the patches' second moment, for pixels in [0, 1], before the root.
        atoms: size of the dictionary.
        dictionary: 'patches', random patches of the training images, or 'kmeans', centers of their clusters.
        max_cosine: the largest cosine between two atoms of a dictionary of patches; 1: no bound.
        code: 'threshold', the atoms whose cosine with the patch is above `threshold`; 'threshold_or_nearest', the
            nearest atom if there is none; 'nearest', the nearest atom always.
        threshold: threshold of the cosine.
        context: the largest distance of neighboring patches, in rows and in columns; None: the whole image.
        embedding_dim: dimension of a patch embedding.
        skip: number of the smoothest eigenvectors to exclude.
        ridge: added to the codes' second moment in the eigenproblem, as a fraction of its mean diagonal entry.
        pool_window: window of the average pooling of patch embeddings, in patches.
        pool_stride: stride of that pooling, in patches.
        pool_cells: cells per side after pooling; an image has `pool_cells**2 * embedding_dim` features.
        flips: whether the fit also uses mirrored training images.
        grayscale: whether the fit also uses training images without color.

    Raises:
        ValueError: a field is not valid; the message begins with its name.
    """

    patch_size: int = 6
    whitening_ridge: float = 1e-3
    atoms: int = 2048
    dictionary: str = "patches"
    max_cosine: float = 1.0
    code: str = "threshold"
    threshold: float = 0.3
    context: int | None = None
    embedding_dim: int = 512
    skip: int = 8
    ridge: float = 0.0
    pool_window: int = 5
    pool_stride: int = 3
    pool_cells: int = 3
    flips: bool = False
    grayscale: bool = False

    def __post_init__(self) -> None:
        """Checks every field."""
        for name in ("patch_size", "atoms", "embedding_dim", "pool_window", "pool_stride", "pool_cells"):
            self._check(name, self._is_integer(name, 1), "an integer of at least 1")
        self._check("patch_size", self.patch_size >= 2, "at least 2, for centered single pixels are zero")
        self._check("skip", self._is_integer("skip", 0), "an integer of at least 0")
        self._check(
            "context", self.context is None or self._is_integer("context", 1), "an integer of at least 1, or None"
        )
        self._check(
            "whitening_ridge", self._is_number("whitening_ridge") and self.whitening_ridge > 0, "a positive number"
        )
        self._check("ridge", self._is_number("ridge") and self.ridge >= 0, "a number of at least 0")
        self._check(
            "max_cosine",
            self._is_number("max_cosine") and 0 < self.max_cosine <= 1,
            "a number above 0 and at most 1",
        )
        self._check(
            "threshold",
            self._is_number("threshold") and 0 <= self.threshold < 1,
            "a number of at least 0 and below 1, the largest cosine",
        )
        self._check("dictionary", self.dictionary in DICTIONARIES, f"one of {', '.join(DICTIONARIES)}")
        self._check("code", self.code in CODES, f"one of {', '.join(CODES)}")
        for name in ("flips", "grayscale"):
            self._check(name, isinstance(getattr(self, name), bool), "True or False")
        if self.skip + self.embedding_dim > self.atoms:
            rule = f"at most {self.atoms - self.skip} for {self.atoms} atoms and skip={self.skip}"
            self._check("embedding_dim", False, rule)

    def _is_integer(self, name: str, minimum: int) -> bool:
        value = getattr(self, name)
        return isinstance(value, int) and not isinstance(value, bool) and value >= minimum

    def _is_number(self, name: str) -> bool:
        value = getattr(self, name)
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

    def _check(self, name: str, is_valid: bool, rule: str) -> None:
        if not is_valid:
            raise ValueError(f"{name} must be {rule}; got {getattr(self, name)!r}")

    @property
    def variants(self) -> int:
        """The number of variants of each training image."""
        return (2 if self.flips else 1) * (2 if self.grayscale else 1)

    def patch_grid(self, image_shape: tuple[int, ...]) -> tuple[int, int]:
        """The number of rows and columns of patches in an image of shape `(height, width, channels)`."""
        return image_shape[0] - self.patch_size + 1, image_shape[1] - self.patch_size + 1

    def check_images(self, image_shape: tuple[int, int, int], count: int) -> None:
        """Raises ValueError, naming a field, if the settings do not fit the images.

        Args:
            image_shape: height, width and channels.
            count: number of training images.
        """
        rows, columns = self.patch_grid(image_shape)
        if min(rows, columns) < 1:
            height, width, _ = image_shape
            self._check("patch_size", False, f"at most {min(height, width)} for images of {height} x {width} pixels")
        self._check("pool_window", self.pool_window <= min(rows, columns), f"at most {min(rows, columns)} patches")
        pooled = (min(rows, columns) - self.pool_window) // self.pool_stride + 1
        self._check("pool_cells", self.pool_cells <= pooled, f"at most {pooled} after the first pooling")
        patches = rows * columns * count * self.variants
        self._check("atoms", self.atoms <= patches, f"at most {patches}, the number of patches of {count} image(s)")
        self._check("grayscale", not self.grayscale or image_shape[2] == 3, "False for images without color")

    def check_chunk(self, image_shape: tuple[int, int, int], chunk_size: int) -> None:
        """Raises ValueError, naming `chunk_size`, if sums over a chunk could overflow int32.

        Args:
            image_shape: height, width and channels.
            chunk_size: images per chunk.
        """
        rows, columns = self.patch_grid(image_shape)
        patches = rows * columns
        context = patches if self.context is None else self.context
        neighbors = patches if context >= max(rows, columns) - 1 else (2 * context + 1) ** 2
        maximum = (2**31 - 1) // (patches * neighbors * self.variants)
        if chunk_size > maximum:
            raise ValueError(f"chunk_size must be at most {maximum} for images of {patches} patches; got {chunk_size}")


def make_options(fields: dict[str, Any]) -> SMTOptions:
    """`SMTOptions(**fields)`, with a ValueError for unknown fields."""
    names = [field.name for field in dataclasses.fields(SMTOptions)]
    for name in fields:
        if name not in names:
            raise ValueError(f"{name} must be an option of the transform; options are {', '.join(names)}")
    return SMTOptions(**fields)


DICTIONARIES = ("patches", "kmeans")
CODES = ("threshold", "threshold_or_nearest", "nearest")
