"""Pictures for the tests of this folder."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_images


def _pictures() -> dict[str, np.ndarray]:
    china, flower = load_sample_images().images
    random = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    return {"china": china[60:188, 200:328], "random": random, "flower": flower[150:278, 250:378]}


@pytest.fixture(scope="session")
def photographs() -> list[np.ndarray]:
    """Two whole photographs, 427 high and 640 wide, uint8."""
    return list(load_sample_images().images)


@pytest.fixture(
    params=[
        pytest.param(pixels, id=name, marks=pytest.mark.slow if name == "flower" else ())
        for name, pixels in _pictures().items()
    ]
)
def picture(request: pytest.FixtureRequest) -> np.ndarray:
    """A square uint8 picture [size, size, 3]."""
    return request.param
