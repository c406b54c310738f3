"""ResNet against an independent float64 reference in NumPy, and its initialization."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vicreg_jax.models import BasicBlock, Bottleneck, ResNet
from vicreg_jax.models.batch_norm import BatchNorm
from vicreg_jax.models.resnet import Norm


def pad(x, padding, value=0.0):
    return np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=value)


def windows(x, size, stride):
    """For each position of the kernel, its pixels in all windows: `[batch, height, width, channels]`."""
    height = (x.shape[1] - size) // stride + 1
    width = (x.shape[2] - size) // stride + 1
    for row in range(size):
        for column in range(size):
            rows = slice(row, row + stride * (height - 1) + 1, stride)
            columns = slice(column, column + stride * (width - 1) + 1, stride)
            yield row, column, x[:, rows, columns]


def conv(x, weights, stride, padding):
    kernel = weights["kernel"]
    return sum(window @ kernel[row, column] for row, column, window in windows(pad(x, padding), len(kernel), stride))


class Reference:
    """torchvision's ResNet in float64; with `train` it uses batch statistics and stores the new running ones."""

    def __init__(self, variables, bottleneck, train):
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        self.params, self.stats = variables["params"], variables["batch_stats"]
        self.bottleneck, self.train, self.new_stats = bottleneck, train, {}

    def batch_norm(self, x, *path):
        params, stats = self.params, self.stats
        for name in path:
            params, stats = params[name], stats[name]
        mean, var = stats["mean"], stats["var"]
        if self.train:
            batch_mean, batch_var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            self.new_stats["/".join(path)] = (
                0.9 * mean + 0.1 * batch_mean,
                0.9 * var + 0.1 * batch_var,
            )
            mean, var = batch_mean, batch_var
        return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]

    def block(self, x, name, stride):
        weights = self.params[name]
        if self.bottleneck:
            y = np.maximum(self.batch_norm(conv(x, weights["conv1"], 1, 0), name, "bn1"), 0)
            y = np.maximum(self.batch_norm(conv(y, weights["conv2"], stride, 1), name, "bn2"), 0)
            y = self.batch_norm(conv(y, weights["conv3"], 1, 0), name, "bn3")
        else:
            y = np.maximum(self.batch_norm(conv(x, weights["conv1"], stride, 1), name, "bn1"), 0)
            y = self.batch_norm(conv(y, weights["conv2"], 1, 1), name, "bn2")
        if "downsample_0" in weights:
            x = self.batch_norm(conv(x, weights["downsample_0"], stride, 0), name, "downsample_1")
        return np.maximum(x + y, 0)

    def features(self, images, stem, stage_sizes):
        stride, padding = (2, 3) if stem == "imagenet" else (1, 1)
        x = conv(np.asarray(images, np.float64), self.params["conv1"], stride, padding)
        x = np.maximum(self.batch_norm(x, "bn1"), 0)
        if stem == "imagenet":
            x = np.max([window for _, _, window in windows(pad(x, 1, -np.inf), 3, 2)], axis=0)
        for stage, blocks in enumerate(stage_sizes):
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                x = self.block(x, f"layer{stage + 1}_{index}", stride)
        return x.mean((1, 2))


def random_variables(model, images, seed=0):
    """Random variables without zero scales and unit variances, so that each one matters."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape_dtype):
        shape, kind = shape_dtype.shape, path[-1].key
        if kind in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, shape)
        elif kind in ("bias", "mean"):
            values = rng.normal(0, 0.3, shape)
        else:
            values = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        return jnp.asarray(values, shape_dtype.dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.tree_util.tree_map_with_path(leaf, shapes)


@partial(jax.jit, static_argnums=(0, 3))
def apply(model, variables, images, train):
    """Features and the new running statistics."""
    return model.apply(variables, images, train=train, mutable=["batch_stats"])


def images_of(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("block", "stem", "size"), [(BasicBlock, "imagenet", (37, 32)), (Bottleneck, "small", (9, 12))]
)
def test_forward_matches_float64_reference(block, stem, size):
    # Even sizes reveal wrong padding, odd sizes a stride in the wrong place.
    stage_sizes = (2, 1)
    model = ResNet(block, stage_sizes, filters=6, stem=stem)
    images = images_of((4, *size, 3))
    variables = random_variables(model, images)
    for train in (False, True):
        reference = Reference(variables, block is Bottleneck, train)
        expected = reference.features(images, stem, stage_sizes)
        features, updates = apply(model, variables, images, train)
        assert features.shape == (4, model.feature_dim)
        assert expected.std() > 0.1
        np.testing.assert_allclose(features, expected, rtol=2e-4, atol=2e-5)
        assert len(reference.new_stats) == (len(jax.tree.leaves(updates)) // 2 if train else 0)
        for path, (mean, var) in reference.new_stats.items():
            stats = updates["batch_stats"]
            for name in path.split("/"):
                stats = stats[name]
            np.testing.assert_allclose(stats["mean"], mean, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(stats["var"], var, rtol=1e-4)


@pytest.mark.parametrize(("stem", "sizes"), [("imagenet", [112, 56, 28, 14, 7]), ("small", [224, 224, 112, 56, 28])])
def test_resolution_of_each_stage(stem, sizes):
    model = ResNet(Bottleneck, stage_sizes=(1, 1, 1, 1), stem=stem)

    def intermediates(images):
        variables = model.init(jax.random.key(0), images)
        return model.apply(variables, images, capture_intermediates=True)[1]["intermediates"]

    seen = jax.eval_shape(intermediates, jnp.zeros((2, 224, 224, 3)))
    shapes = [seen[name]["__call__"][0].shape for name in ("bn1", *(f"layer{i}_0" for i in (1, 2, 3, 4)))]
    assert [shape[1] for shape in shapes] == sizes
    assert [shape[2] for shape in shapes] == sizes
    assert [shape[3] for shape in shapes] == [64, 256, 512, 1024, 2048]


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_blocks_start_as_the_identity(block):
    model = block(filters=8)
    x = jax.nn.relu(images_of((4, 5, 5, 8 * block.expansion)))
    variables = init_block(model, x)
    y, _ = model.apply(variables, x, norm(train=True), mutable=["batch_stats"])
    np.testing.assert_array_equal(y, x)


def init_block(model, x):
    return jax.jit(lambda key, x: model.init(key, x, norm(train=False)))(jax.random.key(0), x)


def norm(*, train):
    return Norm(partial(BatchNorm, use_running_average=not train), jnp.float32, folded=False)


def test_convolutions_start_from_kaiming_normal_fan_out():
    x = jnp.zeros((1, 4, 4, 32))
    params = init_block(BasicBlock(filters=128), x)["params"]
    kernel = np.asarray(params["conv1"]["kernel"])
    assert kernel.shape == (3, 3, 32, 128)
    deviation = np.sqrt(2 / (9 * 128))  # fan in would give twice this value
    assert kernel.std() == pytest.approx(deviation, rel=0.02)
    assert np.abs(kernel).max() > 3 * deviation  # not truncated at two deviations


def test_gradient_is_finite_and_reaches_the_stem():
    model = ResNet(BasicBlock, stage_sizes=(1, 1), filters=8, stem="small")
    images = images_of((8, 8, 8, 4))
    variables = random_variables(model, images)

    @jax.jit
    def gradient(params):
        def loss(params):
            features, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return jnp.sum(features**2)

        return jax.grad(loss)(params)

    gradients = gradient(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert np.abs(gradients["conv1"]["kernel"]).max() > 0
    assert np.abs(gradients["layer2_0"]["bn2"]["scale"]).max() > 0


@pytest.mark.slow
def test_remat_changes_no_value_and_stores_less():
    """The residuals of the forward pass are counted: a CPU's compiler may undo the recomputation."""
    plain = ResNet(BasicBlock, stage_sizes=(2,), filters=4, stem="small")
    images = images_of((4, 8, 8, 3))
    variables = random_variables(plain, images)

    def step(model, variables, images):
        def features(params):
            return model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])

        outputs, pull_back, updates = jax.vjp(features, variables["params"], has_aux=True)
        return outputs, updates, pull_back(outputs), pull_back

    stored, results = [], []
    for model in (plain, plain.clone(remat=True)):
        assert jax.tree.structure(random_variables(model, images)) == jax.tree.structure(variables)
        stored.append(
            sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(partial(step, model), variables, images)[3]))
        )
        results.append(jax.jit(lambda *arguments, model=model: step(model, *arguments)[:3])(variables, images))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)
    assert stored[1] < stored[0] / 2


def test_bfloat16_keeps_parameters_statistics_and_features_in_float32():
    model = ResNet(BasicBlock, stage_sizes=(1, 1), filters=8, stem="small", dtype=jnp.bfloat16)
    exact = model.clone(dtype=jnp.float32)
    images = images_of((16, 8, 8, 3))
    variables = random_variables(model, images)
    features, updates = apply(model, variables, images, train=True)
    expected, expected_updates = apply(exact, variables, images, train=True)
    for leaf in jax.tree.leaves((variables, features, updates)):
        assert leaf.dtype == jnp.float32
    assert not np.array_equal(features, expected)  # the computation was in bfloat16
    np.testing.assert_allclose(features, expected, atol=0.03)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02), updates, expected_updates)


def test_batch_norm_of_a_sharded_batch_uses_global_statistics():
    model = ResNet(BasicBlock, stage_sizes=(1, 1), filters=8, stem="small")
    # Each device's images have another mean: statistics of a single shard would be far off.
    images = images_of((16, 8, 8, 3)) + jnp.repeat(jnp.arange(8.0), 2)[:, None, None, None]
    variables = random_variables(model, images)

    expected = apply(model, variables, images, train=True)
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
    actual = apply(model, variables, sharded, train=True)
    assert len(actual[0].sharding.device_set) == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), actual, expected)


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (jnp.zeros((2, 8, 8), jnp.float32), ValueError, r"shape \(2, 8, 8\)"),
        (jnp.zeros((2, 8, 8, 3), jnp.uint8), TypeError, "uint8"),
        (jnp.zeros((2, 8, 7, 3), jnp.float32), ValueError, "at least 8 pixels per side .*; got 8x7"),
    ],
)
def test_invalid_images_are_refused(images, error, words):
    model = ResNet(BasicBlock, stage_sizes=(1, 1), filters=8, stem="imagenet")
    with pytest.raises(error, match=words):
        jax.eval_shape(model.init, jax.random.key(0), images)


def test_unknown_stem_is_refused():
    model = ResNet(BasicBlock, stage_sizes=(1,), stem="cifar")
    with pytest.raises(ValueError, match=r"^stem must be one of imagenet, small; got 'cifar'"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
