import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vicreg_jax.evaluation.features import extract_features, raw_pixel_features


def batches(count, batch_size, sharding=None):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 4, 4, 2), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int32)

    def make():
        for start in range(0, count, batch_size):
            here = images[start : start + batch_size]
            padding = batch_size - len(here)
            batch = {
                "image": np.concatenate([here, np.zeros((padding, 4, 4, 2), np.uint8)]),
                "aspect_ratio": np.ones(batch_size, np.float32),
                "label": np.concatenate([labels[start : start + batch_size], np.full(padding, -1, np.int32)]),
                "mask": np.arange(batch_size) < len(here),
            }
            yield jax.device_put(batch, sharding)

    return images, labels, make()


@jax.jit
def channel_means(scale, batch):
    return (scale * batch["image"].mean((1, 2))).astype(jnp.bfloat16)


@pytest.mark.parametrize(("count", "batch_size"), [(20, 8), (16, 8), (3, 8)])
def test_features_are_in_order_without_padding(count, batch_size):
    images, labels, made = batches(count, batch_size)
    features, found = extract_features(channel_means, 0.5, made)
    assert features.shape == (count, 2)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, 0.5 * images.mean((1, 2)), rtol=1e-2)
    np.testing.assert_array_equal(found, labels)


def test_sharded_batches():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    _, _, plain = batches(20, 8)
    _, _, sharded = batches(20, 8, sharding)
    for a, b in zip(
        extract_features(channel_means, 1.0, plain),
        extract_features(channel_means, 1.0, sharded),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_raw_pixels():
    images, labels, made = batches(11, 4)
    features, found = raw_pixel_features(made, lambda image, aspect_ratio: image / 255.0)
    np.testing.assert_allclose(features, images.reshape(11, -1) / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(found, labels)


def test_no_batches():
    with pytest.raises(ValueError, match=r"^batches must hold at least one batch; got none$"):
        extract_features(channel_means, 1.0, [])
