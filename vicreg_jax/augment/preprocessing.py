"""How pixels become the network's input: size, normalization and the central crop of evaluation."""

from dataclasses import dataclass

from vicreg_jax.augment.arguments import check_size, is_number


@dataclass(frozen=True)
class Preprocessing:
    """Settings that all views of a run share, random or central.

    Hashable, so static under `jit`; lists become tuples.

    Attributes:
        image_size: Side of a view in pixels, unless the view has a size of its own.
        mean: Mean of the pixels in [0, 1] that `normalize` subtracts: one number, or one per channel.
        std: Standard deviation that it divides by: one number, or one per channel.
        central_fraction: Side of the central crop of evaluation, as a fraction of the image's shorter side. 0.875 with
            an `image_size` of 224 is torchvision's Resize(256) and CenterCrop(224).

    Raises:
        ValueError: If a field is out of range.

    Example:
        >>> Preprocessing(image_size=24, mean=[0.5], std=[0.25])
        Preprocessing(image_size=24, mean=(0.5,), std=(0.25,), central_fraction=1.0)
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    central_fraction: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        check_size("image_size", self.image_size)
        for name, rule in (
            ("mean", "one number, or one per channel"),
            ("std", "one number above 0, or one per channel"),
        ):
            value = getattr(self, name)
            numbers = tuple(value) if isinstance(value, list | tuple) else ()
            if not numbers or not all(map(is_number, numbers)) or (name == "std" and min(numbers) <= 0):
                raise ValueError(f"{name} must be {rule}; got {value!r}")
            object.__setattr__(self, name, numbers)
        if not is_number(self.central_fraction) or not 0 < self.central_fraction <= 1:
            raise ValueError(f"central_fraction must be a number above 0, at most 1; got {self.central_fraction!r}")
