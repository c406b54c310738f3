"""What the transform can be told; in a config, the fields of the section `method`."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SMTOptions:
    """The settings of a sparse manifold transform.

    Attributes:
      patch_size: side of a patch, in pixels.
      whitening_ridge: added to the eigenvalues of the patches' second moment (pixels in [0, 1]) before the root.
      atoms: in the dictionary.
      dictionary: 'patches', drawn at random from the training images, or 'kmeans', the centers of their clusters.
      max_cosine: between two atoms of a dictionary of patches: one that is more like another is not taken; 1:
        all are.
      code: 'threshold', the atoms whose cosine with the patch is above `threshold`; 'threshold_or_nearest', the nearest
        where there is none; or 'nearest', that one always.
      threshold: on the cosine.
      context: patches at most so many places apart count as neighbors; None: all of an image.
      embedding_dim: of a patch.
      skip: eigenvectors left out at the smooth end of the spectrum.
      ridge: added to the codes' second moment in the eigenproblem, as a fraction of its mean diagonal entry.
      pool_window, pool_stride: of the average pooling of patch embeddings, in patches.
      pool_cells: along each side, what an image's embedding is made of: `pool_cells**2 * embedding_dim` features.
      flips: whether every training image is also seen mirrored.
      grayscale: whether every training image is also seen without color.

    The defaults are those of the recipe for CIFAR-10 as far as it is known (docs/smt.md), but for the number of atoms,
    8192 there.
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
        """Checks each field; ValueError begins with its name."""
        for name in ("patch_size", "atoms", "embedding_dim", "pool_window", "pool_stride", "pool_cells"):
            self._check(name, self._is_integer(name, 1), "an integer of at least 1")
        self._check("patch_size", self.patch_size >= 2, "at least 2: a pixel less its mean is nothing")
        self._check("skip", self._is_integer("skip", 0), "an integer of at least 0")
        self._check(
            "context", self.context is None or self._is_integer("context", 1), "an integer of at least 1, or None"
        )
        self._check(
            "whitening_ridge", self._is_number("whitening_ridge") and self.whitening_ridge > 0, "a number above 0"
        )
        self._check("ridge", self._is_number("ridge") and self.ridge >= 0, "a number of at least 0")
        self._check(
            "max_cosine",
            self._is_number("max_cosine") and 0 < self.max_cosine <= 1,
            "a number above 0, at most 1",
        )
        self._check(
            "threshold",
            self._is_number("threshold") and 0 <= self.threshold < 1,
            "a number from 0 to below 1: a cosine is not above 1",
        )
        self._check("dictionary", self.dictionary in DICTIONARIES, f"one of {', '.join(DICTIONARIES)}")
        self._check("code", self.code in CODES, f"one of {', '.join(CODES)}")
        for name in ("flips", "grayscale"):
            self._check(name, isinstance(getattr(self, name), bool), "True or False")
        if self.skip + self.embedding_dim > self.atoms:
            self._check("embedding_dim", False, f"at most {self.atoms - self.skip}: {self.atoms} atoms less skip")

    def _is_integer(self, name: str, least: int) -> bool:
        value = getattr(self, name)
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    def _is_number(self, name: str) -> bool:
        value = getattr(self, name)
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

    def _check(self, name: str, is_fine: bool, takes: str) -> None:
        if not is_fine:
            raise ValueError(f"{name}: got {getattr(self, name)!r}, takes {takes}")

    @property
    def variants(self) -> int:
        """In how many variants every training image is seen."""
        return (2 if self.flips else 1) * (2 if self.grayscale else 1)

    def patch_grid(self, image_shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of patches of an image `(height, width, channels)`."""
        return image_shape[0] - self.patch_size + 1, image_shape[1] - self.patch_size + 1

    def check_images(self, image_shape: tuple[int, int, int], count: int) -> None:
        """Refuses images that the settings do not fit; ValueError begins with a field's name."""
        rows, columns = self.patch_grid(image_shape)
        if min(rows, columns) < 1:
            height, width, _ = image_shape
            self._check("patch_size", False, f"at most {min(height, width)} for images of {height} x {width} pixels")
        self._check("pool_window", self.pool_window <= min(rows, columns), f"at most {min(rows, columns)}, all patches")
        pooled = (min(rows, columns) - self.pool_window) // self.pool_stride + 1
        self._check("pool_cells", self.pool_cells <= pooled, f"at most {pooled}, what the first pooling leaves")
        patches = rows * columns * count * self.variants
        self._check("atoms", self.atoms <= patches, f"at most {patches}, the patches of {count} image(s)")
        self._check("grayscale", not self.grayscale or image_shape[2] == 3, "False for images without color")

    def check_chunk(self, image_shape: tuple[int, int, int], chunk_size: int) -> None:
        """Refuses so many images at a time that their counts would leave int32; ValueError names `chunk_size`."""
        rows, columns = self.patch_grid(image_shape)
        patches = rows * columns
        context = patches if self.context is None else self.context
        neighbors = patches if context >= max(rows, columns) - 1 else (2 * context + 1) ** 2
        most = (2**31 - 1) // (patches * neighbors * self.variants)
        if chunk_size > most:
            raise ValueError(f"chunk_size: got {chunk_size}, takes at most {most} for {patches} patches an image")


def make_options(fields: dict[str, Any]) -> SMTOptions:
    """`SMTOptions(**fields)`; ValueError names a field that there is not."""
    names = [field.name for field in dataclasses.fields(SMTOptions)]
    for name in fields:
        if name not in names:
            raise ValueError(f"{name}: is no option of the transform, which takes {', '.join(names)}")
    return SMTOptions(**fields)


DICTIONARIES = ("patches", "kmeans")
CODES = ("threshold", "threshold_or_nearest", "nearest")
