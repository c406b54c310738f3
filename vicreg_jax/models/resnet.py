"""ResNet v1.5 with torchvision's padding, strides and parameter names, for weights to and from PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vicreg_jax.models import mixed_precision
from vicreg_jax.models.batch_norm import EPSILON, BatchNorm, FoldedBatchNorm
from vicreg_jax.models.normalized_products import Parameters, normalized_products, subsample
from vicreg_jax.models.stem import max_pool, normalized_max_pool, stem_conv

STEMS = ("imagenet", "small")

# PyTorch's kaiming_normal_(mode="fan_out", nonlinearity="relu").
_kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(
    filters: int,
    kernel_size: int,
    stride: int,
    dtype: DTypeLike,
    name: str,
    arguments: Callable[[DTypeLike], dict[str, Any]] = mixed_precision.conv,
) -> nn.Conv:
    # Explicit padding: at stride 2, "SAME" pads asymmetrically, unlike torchvision.
    return nn.Conv(
        filters,
        (kernel_size, kernel_size),
        strides=(stride, stride),
        padding=kernel_size // 2,
        use_bias=False,
        kernel_init=_kaiming_normal,
        name=name,
        **arguments(dtype),
    )


class _Kernel(nn.Module):
    """The kernel of a 1x1 convolution, `[inputs, filters]`, by itself."""

    filters: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel: jax.Array = self.param("kernel", _kaiming_normal, (1, 1, x.shape[-1], self.filters))
        return kernel[0, 0]


@dataclass(frozen=True)
class Norm:
    """How a network normalizes.

    Attributes:
        batch_norm: makes a `BatchNorm`.
        dtype: type of the computation.
        folded: whether BatchNorm becomes part of 1x1 convolutions that widen, and comes after max-pooling.
    """

    batch_norm: Callable[..., BatchNorm]
    dtype: DTypeLike
    folded: bool

    def residual_sum(self, y: jax.Array, x: jax.Array, filters: int, stride: int) -> jax.Array:
        """The end of a bottleneck: 1x1 convolution of y, BatchNorm, the sum with the shortcut of x, and ReLU.

        The scale of the last BatchNorm starts from zero.
        """
        if self.folded:
            return self._folded_sum(y, x, filters, stride)
        y = _conv(filters, 1, 1, self.dtype, "conv3")(y)
        y = self.batch_norm(scale_init=nn.initializers.zeros, name="bn3")(y)
        return nn.relu(y + self.shortcut(x, filters, stride))

    def _folded_sum(self, y: jax.Array, x: jax.Array, filters: int, stride: int) -> jax.Array:
        inputs, kernels = [y], [_Kernel(filters, name="conv3")(y)]
        norms = [FoldedBatchNorm(filters, scale_init=nn.initializers.zeros, name="bn3")]
        fits = _fits(x, filters, stride)
        if not fits:
            inputs.append(subsample(x, stride))
            kernels.append(_Kernel(filters, name="downsample_0")(x))
            norms.append(FoldedBatchNorm(filters, name="downsample_1"))
        parameters = [Parameters(kernel, norm.scale, norm.bias) for kernel, norm in zip(kernels, norms, strict=True)]
        y, statistics = normalized_products(inputs, parameters, x if fits else None, EPSILON)
        for norm, (mean, var) in zip(norms, statistics, strict=True):
            norm.move(mean, var)
        return y

    def max_pool(self, x: jax.Array) -> jax.Array:
        """The end of the stem: BatchNorm, ReLU and max-pooling."""
        if not self.folded:
            return max_pool(nn.relu(self.batch_norm(name="bn1")(x)))
        norm = FoldedBatchNorm(x.shape[-1], name="bn1")
        y, mean, var = normalized_max_pool(x, norm.scale, norm.bias, EPSILON)
        norm.move(mean, var)
        return y

    def shortcut(self, x: jax.Array, filters: int, stride: int) -> jax.Array:
        """The input of a block; where the output has another shape, a 1x1 convolution of the input with BatchNorm."""
        if _fits(x, filters, stride):
            return x
        x = _conv(filters, 1, stride, self.dtype, "downsample_0")(x)
        y: jax.Array = self.batch_norm(name="downsample_1")(x)
        return y


def _fits(x: jax.Array, filters: int, stride: int) -> bool:
    return stride == 1 and x.shape[-1] == filters


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the first convolution has the stride."""

    filters: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32
    expansion: ClassVar[int] = 1

    @nn.compact
    def __call__(self, x: jax.Array, norm: Norm) -> jax.Array:
        """Map `[batch, height, width, channels]` to `[batch, height / stride, width / stride, filters]`."""
        y = _conv(self.filters, 3, self.stride, self.dtype, "conv1")(x)
        y = nn.relu(norm.batch_norm(name="bn1")(y))
        y = _conv(self.filters, 3, 1, self.dtype, "conv2")(y)
        y = norm.batch_norm(name="bn2", scale_init=nn.initializers.zeros)(y)
        return nn.relu(y + norm.shortcut(x, self.filters, self.stride))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the 3x3 convolution has the stride (v1.5)."""

    filters: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32
    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: jax.Array, norm: Norm) -> jax.Array:
        """Map `[batch, height, width, channels]` to `[batch, height / stride, width / stride, 4 filters]`."""
        filters_out = self.filters * self.expansion
        y = _conv(self.filters, 1, 1, self.dtype, "conv1")(x)
        y = nn.relu(norm.batch_norm(name="bn1")(y))
        y = _conv(self.filters, 3, self.stride, self.dtype, "conv2")(y)
        y = nn.relu(norm.batch_norm(name="bn2")(y))
        return norm.residual_sum(y, x, filters_out, self.stride)


class ResNet(nn.Module):
    """A residual network without a classifier: normalized images to globally averaged features.

    Convolutions start from kaiming_normal (fan out). The last BatchNorm of each block starts from scale zero, so that a
    block without downsampling starts as the identity. BatchNorm has epsilon 1e-5 and momentum 0.9 (0.1 in PyTorch's
    convention). Parameters and statistics are float32 for every `dtype`. Modules have torchvision's names with `_` for
    `.`: `conv1`, `bn1`, `layer1_0/conv1`, `layer2_0/downsample_0`.

    Attributes:
        block: `BasicBlock` or `Bottleneck`.
        stage_sizes: Number of blocks in each stage. Every stage but the first halves height and width.
        filters: Channels of the stem and inner channels of the first stage; each further stage doubles them.
        stem: "imagenet" (7x7 convolution with stride 2, then 3x3 max-pooling with stride 2) or "small" (3x3 convolution
            with stride 1, no pooling).
        dtype: Type of the computation, bfloat16 or float32.
        remat: Store only the inputs of the blocks for the backward pass, and recompute the rest of each block.
        folded: In training, compute BatchNorm at the end of every `Bottleneck` as a part of its convolution, see
            `normalized_products`, and the stem's after max-pooling, see `normalized_max_pool`: the same up to rounding,
            with less traffic. A view then goes through by itself.

    Raises:
        TypeError: If the images are not floating-point.
        ValueError: If the images do not have rank 4 or are smaller than `minimum_image_size`, or `stem` is not in
            `STEMS`.

    Source: He et al. 2016 (arXiv 1512.03385), with v1.5 strides; facebookresearch/vicreg `resnet.py`.

    Example:
        >>> model = ResNet(BasicBlock, stage_sizes=(1, 1), filters=8, stem="small")
        >>> model.feature_dim, model.minimum_image_size
        (16, 2)
        >>> images = jnp.zeros((5, 8, 8, 3))
        >>> features, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
        >>> features.shape
        (5, 16)
    """

    block: type[BasicBlock] | type[Bottleneck]
    stage_sizes: tuple[int, ...]
    filters: int = 64
    stem: str = "imagenet"
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    folded: bool = False

    @property
    def feature_dim(self) -> int:
        """Dimension of the features."""
        return self.filters * 2 ** (len(self.stage_sizes) - 1) * self.block.expansion

    @property
    def minimum_image_size(self) -> int:
        """Product of all strides, in pixels. In smaller images, a stride would be applied to a map of one pixel."""
        return (4 if self.stem == "imagenet" else 1) * 2 ** (len(self.stage_sizes) - 1)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, views: int = 1) -> jax.Array:
        """Compute the features of a batch of images.

        Args:
            images: floating `[batch, height, width, channels]`, normalized, with any number of channels.
            train: If True, BatchNorm uses the statistics of the global batch and updates the running ones (the
                collection `batch_stats`, which must be mutable). If False, it uses the running ones.
            views: Number of views in the batch: row i * views + v is view v of image i. BatchNorm has separate batch
                statistics for each view.

        Returns:
            float32 `[batch, feature_dim]`, averaged over height and width in float32.
        """
        self._check(images)
        norm = Norm(
            batch_norm=partial(BatchNorm, use_running_average=not train, views=views, dtype=self.dtype),
            dtype=self.dtype,
            folded=self.folded and train and views == 1,
        )
        if self.stem == "imagenet":
            x = _conv(self.filters, 7, 2, self.dtype, "conv1", stem_conv)(images)
            x = norm.max_pool(x)
        else:
            x = _conv(self.filters, 3, 1, self.dtype, "conv1")(images)
            x = nn.relu(norm.batch_norm(name="bn1")(x))

        def apply(block: nn.Module, x: jax.Array) -> jax.Array:
            return block(x, norm)

        if self.remat:
            apply = nn.remat(apply)
        for stage, blocks in enumerate(self.stage_sizes):
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                name = f"layer{stage + 1}_{index}"
                x = apply(self.block(self.filters * 2**stage, stride, self.dtype, name=name), x)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)

    def _check(self, images: jax.Array) -> None:
        if self.stem not in STEMS:
            raise ValueError(f"stem must be one of {', '.join(STEMS)}; got {self.stem!r}")
        if images.ndim != 4:
            raise ValueError(f"images must have shape [batch, height, width, channels]; got shape {images.shape}")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise TypeError(f"images must be normalized images of a floating dtype; got {images.dtype}")
        if min(images.shape[1:3]) < self.minimum_image_size:
            raise ValueError(
                f"images must have at least {self.minimum_image_size} pixels per side for the {self.stem!r} stem and "
                f"{len(self.stage_sizes)} stages; got {images.shape[1]}x{images.shape[2]}"
            )
