"""PyTorch's side of `test_with_torch.py`; it runs in an environment with torch, torchvision and timm, not in ours."""

import sys
from collections import OrderedDict

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional


def expected(path, tensors):
    """Saves what PyTorch holds. NumPy's files have no 16-bit or 8-bit floats of other kinds: their bits instead."""
    arrays = {}
    for key, tensor in tensors.items():
        plain = tensor.detach().contiguous()
        bits = {torch.bfloat16: torch.int16, torch.float8_e4m3fn: torch.uint8}.get(plain.dtype)
        arrays[key] = plain.view(bits).numpy() if bits else plain.numpy()
    np.savez(path, **arrays)


def read(path, out):
    """What torch.load reads."""
    content = torch.load(path, weights_only=True)
    expected(out, content)


def write(directory):
    """Files with tensors of all dtypes and layouts, and a whole checkpoint."""
    base = torch.arange(24.0).reshape(4, 6)
    shared = torch.arange(30.0)
    tensors = {
        "transposed": base.T,
        "part": base[1:3, 2:5],
        "steps": base[::2, ::3],
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": torch.ones(1).expand(3, 4),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "parameter": nn.Parameter(base),
        "first_half": shared[:15],
        "second_half": shared[15:],
        **{
            str(dtype): (base - 3).to(dtype)
            for dtype in (
                *(torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16),
                *(torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128),
            )
        },
    }
    newer = {str(dtype): base.to(dtype) for dtype in (torch.uint16, torch.uint32, torch.float8_e4m3fn)}
    torch.save(tensors, f"{directory}/legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(tensors | newer, f"{directory}/zip.pt")
    expected(f"{directory}/legacy.npz", tensors)
    expected(f"{directory}/zip.npz", tensors | newer)

    import safetensors.torch

    plain = {key: tensor.contiguous() for key, tensor in tensors.items() if "complex" not in key and "half" not in key}
    safetensors.torch.save_file(plain, f"{directory}/safetensors.pt", metadata={"format": "pt"})
    expected(f"{directory}/safetensors.npz", plain)

    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), f"{directory}/program.pt")
    torch.save(nn.Linear(2, 2), f"{directory}/module.pt")


def build(name, stem="imagenet"):
    """torchvision's network without its classifier."""
    if name == "resnet200":
        model = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [3, 24, 36, 3])
    else:
        model = getattr(torchvision.models, name)()
    model.fc = nn.Identity()
    if stem == "small":
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model


class Projecting(nn.Module):
    """The modules of the official code, with its names."""

    def __init__(self, name, stem):
        super().__init__()
        self.backbone = build(name, stem)
        dim = 512 if name in ("resnet18", "resnet34") else 2048
        self.projector = nn.Sequential(
            *(nn.Linear(dim, 24), nn.BatchNorm1d(24), nn.ReLU()),
            *(nn.Linear(24, 16), nn.BatchNorm1d(16), nn.ReLU()),
            nn.Linear(16, 8, bias=False),
        )

    def forward(self, images):
        features = self.backbone(images)
        return features, self.projector(features)


def train(directory, name, stem):
    """Trains a little, and saves a backbone, a full checkpoint, and features and embeddings of the images."""
    torch.manual_seed(0)
    images = torch.from_numpy(np.load(f"{directory}/images.npy")).permute(0, 3, 1, 2)
    model = Projecting(name, stem)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(3):
        features, embeddings = model(images + 0.1 * torch.randn_like(images))
        loss = functional.cross_entropy(embeddings, torch.arange(len(images)) % 8) + features.var()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        features, embeddings = model(images)
    torch.save(model.backbone.state_dict(), f"{directory}/backbone.pth")
    weights = OrderedDict((f"module.{key}", value) for key, value in model.state_dict().items())
    torch.save({"epoch": 3, "model": weights, "optimizer": optimizer.state_dict()}, f"{directory}/full.pth")
    np.savez(f"{directory}/outputs.npz", features=features.numpy(), embeddings=embeddings.numpy())


def first_step(directory):
    """The loss of the official VICReg and the features of the first view, for the networks in `full.pth`."""
    content = torch.load(f"{directory}/full.pth", weights_only=True)
    model = Projecting("resnet18", "imagenet")
    model.load_state_dict({key.removeprefix("module."): value for key, value in content["model"].items()})
    views = np.load(f"{directory}/views.npy")
    with torch.no_grad():
        (features, x), (_, y) = (model(torch.from_numpy(view).permute(0, 3, 1, 2)) for view in views)
    loss = 25 * functional.mse_loss(x, y)
    for z in (x, y):
        z = z - z.mean(dim=0)
        loss += 25 * functional.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean() / 2
        covariance = z.T @ z / (len(z) - 1)
        loss += (covariance.pow(2).sum() - covariance.diagonal().pow(2).sum()) / z.shape[1]
    np.savez(f"{directory}/first_step.npz", loss=loss.numpy(), features=features.numpy())


def load(directory, receiver, name, path):
    """Loads our file as the receiver does, and saves the features of the images."""
    images = torch.from_numpy(np.load(f"{directory}/images.npy")).permute(0, 3, 1, 2)
    if receiver == "torchvision":
        model = build(name)
        model.load_state_dict(torch.load(path, weights_only=True), strict=True)
    elif receiver == "safetensors":
        import safetensors.torch

        model = build(name)
        model.load_state_dict(safetensors.torch.load_file(path), strict=True)
    elif receiver == "timm":
        import timm

        model = timm.create_model(name, num_classes=0, checkpoint_path=path)
    else:
        model = load_in_detectron2(name, path)
    model.eval()
    with torch.no_grad():
        np.save(f"{directory}/features.npy", model(images).numpy())


def vit(directory, name, pooling):
    """Saves timm's ViT with random weights, its size, and features of the images, also in a model of another size."""
    import timm

    torch.manual_seed(0)
    images = torch.from_numpy(np.load(f"{directory}/images.npy")).permute(0, 3, 1, 2)
    model = create_vit(name, pooling)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            center = 1.0 if "norm" in key and key.endswith("weight") else 0.0
            scale = 1 / parameter[0].numel() ** 0.5 if parameter.ndim in (2, 4) else 0.3
            parameter.copy_(center + scale * torch.randn_like(parameter))
        features = model.eval()(images)
        torch.save({"state_dict": model.state_dict()}, f"{directory}/vit.pth")
        small = create_vit(name, pooling, img_size=96)
        resampled = timm.models.vision_transformer.checkpoint_filter_fn(model.state_dict(), small)
        small.load_state_dict(resampled, strict=True)
        small_features = small.eval()(images[:, :, :96, :96])
    size = sum(parameter.numel() for parameter in model.parameters())
    np.savez(f"{directory}/vit.npz", features=features, small_features=small_features, size=size)


def create_vit(name, pooling, **options):
    import timm

    of_pooling = {"token": {}, "mean": {"global_pool": "avg", "class_token": False, "fc_norm": False}}[pooling]
    return timm.create_model(name, num_classes=0, **of_pooling, **options)


def load_vit(directory, name, pooling, path):
    """Loads our file strictly, and saves the features of the images."""
    import safetensors.torch

    images = torch.from_numpy(np.load(f"{directory}/images.npy")).permute(0, 3, 1, 2)
    model = create_vit(name, pooling, img_size=images.shape[2])
    model.load_state_dict(safetensors.torch.load_file(path), strict=True)
    with torch.no_grad():
        np.save(f"{directory}/features.npy", model.eval()(images).numpy())


def load_in_detectron2(name, path):
    """detectron2's rule: a tensor of the file goes to the tensor of the model whose name ends with its key.

    The longest such key counts, after a dot or as the whole name, and no key may serve two tensors.
    """
    import pickle

    with open(path, "rb") as file:
        content = pickle.load(file, encoding="latin1")
    assert content["matching_heuristics"]
    assert "__author__" in content
    detector = Detector(name)
    state = detector.state_dict()
    used = []
    for own in sorted(state):
        keys = [key for key in content["model"] if own == key or own.endswith("." + key)]
        if keys:
            key = max(keys, key=len)
            tensor = torch.from_numpy(content["model"][key])
            assert tensor.shape == state[own].shape, own
            state[own] = tensor
            used.append(key)
    assert sorted(used) == sorted(content["model"]), "each key of the file serves one tensor of the model"
    backbone = [key for key in state if ".bottom_up." in key]
    assert len(used) == len(backbone), "every tensor of the backbone is in the file"
    detector.load_state_dict(state, strict=True)
    return detector.backbone["bottom_up"]


class Norm(nn.Module):
    """FrozenBatchNorm2d: four buffers."""

    def __init__(self, channels):
        super().__init__()
        for key in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(key, torch.full((channels,), torch.nan))

    def forward(self, x):
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-5)


class Conv(nn.Conv2d):
    """A convolution that holds its normalization, under the name `norm`."""

    def __init__(self, inputs, outputs, size, stride=1):
        super().__init__(inputs, outputs, size, stride, padding=size // 2, bias=False)
        self.norm = Norm(outputs)

    def forward(self, x):
        return self.norm(super().forward(x))


class Block(nn.Module):
    """A residual block with detectron2's names, and STRIDE_IN_1X1=False."""

    def __init__(self, inputs, inner, outputs, stride):
        super().__init__()
        if inputs != outputs or stride != 1:
            self.shortcut = Conv(inputs, outputs, 1, stride)
        if inner == outputs:
            self.conv1, self.conv2 = Conv(inputs, inner, 3, stride), Conv(inner, outputs, 3)
        else:
            self.conv1, self.conv2 = Conv(inputs, inner, 1), Conv(inner, inner, 3, stride)
            self.conv3 = Conv(inner, outputs, 1)

    def forward(self, x):
        y = self.conv2(functional.relu(self.conv1(x)))
        if hasattr(self, "conv3"):
            y = self.conv3(functional.relu(y))
        return functional.relu(y + (self.shortcut(x) if hasattr(self, "shortcut") else x))


class Backbone(nn.Module):
    """detectron2's ResNet; its features are averaged here."""

    def __init__(self, blocks, expansion):
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv1 = Conv(3, 64, 7, 2)
        inputs = 64
        for stage, count in enumerate(blocks):
            inner = 64 * 2**stage
            stride = 1 if stage == 0 else 2
            outputs = inner * expansion
            first = Block(inputs, inner, outputs, stride)
            rest = [Block(outputs, inner, outputs, 1) for _ in range(count - 1)]
            setattr(self, f"res{stage + 2}", nn.Sequential(first, *rest))
            inputs = outputs

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.stem.conv1(x)), 3, 2, 1)
        return self.res5(self.res4(self.res3(self.res2(x)))).mean((2, 3))


class Detector(nn.Module):
    """The parts of a Faster R-CNN with FPN whose names could be mistaken."""

    def __init__(self, name):
        super().__init__()
        bottom_up = Backbone([2, 2, 2, 2] if name == "resnet18" else [3, 4, 6, 3], 1 if name == "resnet18" else 4)
        self.backbone = nn.ModuleDict({"bottom_up": bottom_up})
        self.backbone["fpn_lateral2"] = nn.Conv2d(4, 4, 1)
        self.proposal_generator = nn.ModuleDict({"conv1": nn.Conv2d(4, 4, 3)})
        self.roi_heads = nn.ModuleDict({"box_head": nn.ModuleDict({"conv1": Conv(4, 4, 3)})})


if __name__ == "__main__":
    torch.set_num_threads(2)
    functions = (read, write, train, first_step, load, vit, load_vit)
    {function.__name__: function for function in functions}[sys.argv[1]](*sys.argv[2:])
