"""The experiment on emoji pairs: what is read, what is held out, and that each loss lets partners find each other."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from benchmarks.experiments import emoji_pairs


def test_recalls_count_partners_both_ways():
    """The third row on the right is nearest to the first on the left, and second to its partner."""
    left = np.eye(7)
    right = np.eye(7)
    right[2] = right[0] + 0.1 * right[2]
    found = emoji_pairs.recalls(left, right)
    assert found["left_to_right_at_1"] == 1.0  # nothing else on the right points along the third axis
    assert found["right_to_left_at_1"] == pytest.approx(6 / 7)
    assert found["right_to_left_at_5"] == 1.0


def test_pairs_on_white_without_skin_tones(tmp_path):
    for side, color in (("a", (255, 0, 0, 255)), ("b", (0, 0, 0, 0))):
        (tmp_path / side).mkdir()
        for name in ("1f44b", "1f44b-1f3fb", f"only_{side}", "1f600"):
            Image.new("RGBA", (64, 64), color).save(tmp_path / side / f"{name}.png")
    pairs = emoji_pairs.read_pairs(tmp_path / "a", tmp_path / "b")
    assert (pairs.shape, pairs.dtype) == ((2, 2, 64, 64, 3), np.uint8)
    assert (pairs[0] == (255, 0, 0)).all()
    assert (pairs[1] == 255).all()  # transparent


def test_a_fifth_is_held_out_in_pairs():
    pairs = np.arange(20)[None] + np.zeros((2, 1), int)
    seen, held_out = emoji_pairs.hold_out(pairs)
    assert (seen.shape, held_out.shape) == ((2, 16), (2, 4))
    np.testing.assert_array_equal(seen[0], seen[1])
    assert sorted([*seen[0], *held_out[0]]) == list(range(20))


@pytest.mark.slow
@pytest.mark.parametrize("method", emoji_pairs.GRID)
def test_partners_find_each_other(method, monkeypatch, tmp_path):
    """A side and its negative: raw pixels are no help. The results say what was measured."""
    monkeypatch.setattr(emoji_pairs, "BATCH", 64)
    monkeypatch.setattr(emoji_pairs, "GRID", {method: emoji_pairs.GRID[method]})
    monkeypatch.setattr(emoji_pairs, "SEEDS", (0,))
    coarse = jax.random.uniform(jax.random.key(0), (320, 3, 3, 3))
    images = np.asarray(255 * jax.image.resize(coarse, (320, 64, 64, 3), "linear"), np.uint8)
    monkeypatch.setattr(emoji_pairs, "read_pairs", lambda left, right: jnp.stack([images, 255 - images]))
    emoji_pairs.main(["a", "b", "--epochs=40", f"--output={tmp_path}/x.json"])
    results = json.loads((tmp_path / "x.json").read_text())
    assert (results["pairs"], results["held_out_pairs"]) == (256, 64)
    assert results["baselines"]["raw_pixels"]["left_to_right_at_1"] < 0.1
    (row,) = results["runs"]
    assert min(row["left_to_right_at_5"], row["right_to_left_at_5"]) > 0.5  # chance: 5 of 64
