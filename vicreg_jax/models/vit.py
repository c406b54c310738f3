"""Vision transformers with timm's parameter names, for weights to and from PyTorch."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vicreg_jax.models import mixed_precision

POOLINGS = ("token", "mean")
EPSILON = 1e-6
# The random stream of stochastic depth. Without it every block is kept.
STOCHASTIC_DEPTH = "stochastic_depth"

_truncated_normal = nn.initializers.truncated_normal(0.02)
# PyTorch's default for the kernel of a convolution: U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)).
_torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _dense(x: jax.Array, features: int, dtype: DTypeLike, name: str) -> jax.Array:
    return nn.Dense(features, kernel_init=_truncated_normal, name=name, **mixed_precision.dense(dtype))(x).astype(dtype)


def _layer_norm(x: jax.Array, dtype: DTypeLike, name: str) -> jax.Array:
    return nn.LayerNorm(epsilon=EPSILON, dtype=dtype, use_fast_variance=False, name=name)(x)


def resize_positions(positions: jax.Array, tokens: int, grid: tuple[int, int]) -> jax.Array:
    """Interpolate learned position embeddings of a square grid of patches to another grid; bicubic and antialiased.

    Args:
        positions: `[1, tokens + side^2, dim]`.
        tokens: Number of leading positions that belong to no patch; these stay.
        grid: Rows and columns of the other grid.

    Returns:
        `[1, tokens + rows * columns, dim]`.
    """
    dim, side = positions.shape[-1], round((positions.shape[1] - tokens) ** 0.5)
    if grid == (side, side):
        return positions
    of_patches = positions[:, tokens:].reshape(1, side, side, dim)
    resized = jax.image.resize(of_patches, (1, *grid, dim), "cubic", antialias=True)
    return jnp.concatenate([positions[:, :tokens], resized.reshape(1, -1, dim)], axis=1)


class PatchEmbedding(nn.Module):
    """One token for each patch of an image."""

    patch_size: int
    dim: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Map `[batch, height, width, channels]` to `[batch, height / patch_size, width / patch_size, dim]`."""
        size = (self.patch_size, self.patch_size)
        conv = nn.Conv(
            self.dim, size, size, 0, kernel_init=_torch_uniform, name="proj", **mixed_precision.conv(self.dtype)
        )
        return conv(images).astype(self.dtype)


class Attention(nn.Module):
    """Multi-head self-attention."""

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map tokens `[batch, tokens, dim]` to the same shape."""
        batch, tokens, dim = x.shape
        qkv = _dense(x, 3 * dim, self.dtype, "qkv").reshape(batch, tokens, 3, self.heads, dim // self.heads)
        attended = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return _dense(attended.reshape(batch, tokens, dim), dim, self.dtype, "proj")


class MLP(nn.Module):
    """Two dense layers with a GELU between them, four times as wide inside."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map tokens `[batch, tokens, dim]` to the same shape."""
        hidden = nn.gelu(_dense(x, 4 * x.shape[-1], self.dtype, "fc1"), approximate=False)
        return _dense(hidden, x.shape[-1], self.dtype, "fc2")


class TransformerBlock(nn.Module):
    """Attention and MLP, each after a LayerNorm and beside a shortcut.

    Attributes:
        heads: Number of attention heads.
        drop_probability: Probability that an image skips a branch; the others are scaled up by what is missing.
        dtype: Type of the computation.
    """

    heads: int
    drop_probability: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map tokens `[batch, tokens, dim]` to the same shape."""
        x = x + self._keep(Attention(self.heads, self.dtype, name="attn")(_layer_norm(x, self.dtype, "norm1")))
        return x + self._keep(MLP(self.dtype, name="mlp")(_layer_norm(x, self.dtype, "norm2")))

    def _keep(self, branch: jax.Array) -> jax.Array:
        if self.drop_probability == 0 or not self.has_rng(STOCHASTIC_DEPTH):
            return branch
        keep = 1 - self.drop_probability
        kept = jax.random.bernoulli(self.make_rng(STOCHASTIC_DEPTH), keep, (len(branch), 1, 1))
        return jnp.where(kept, branch / keep, 0).astype(branch.dtype)


class ViT(nn.Module):
    """A vision transformer without a classifier: normalized images to features.

    Pre-norm blocks, learned position embeddings, and LayerNorm with epsilon 1e-6. Images may have another size than
    `image_size`: the position embeddings are then interpolated (bicubic, antialiased). Parameters are float32 for every
    `dtype`. Modules have timm's names with `_` for `.`: `patch_embed/proj`, `blocks_0/attn/qkv`, `norm`.

    Attributes:
        patch_size: Side of a patch, in pixels; divides the images' sides.
        dim: Dimension of the tokens and of the features.
        depth: Number of blocks.
        heads: Number of attention heads; divides `dim`.
        image_size: Side of the images that the position embeddings are learned for, in pixels.
        pooling: "token" (the features are the class token's) or "mean" (over the patches' tokens; there is no class
            token).
        stochastic_depth: Probability that an image skips the last block's branches; it grows linearly from 0 at the
            first. Takes effect where `apply` gets the random stream "stochastic_depth".
        dtype: Type of the computation, bfloat16 or float32.
        remat: Store only the inputs of the blocks for the backward pass, and recompute the rest of each block.

    Raises:
        TypeError: If the images are not floating-point.
        ValueError: If the images do not have rank 4 or `patch_size` does not divide their sides, or a field is out of
            range.

    Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), section 3.1; huggingface/pytorch-image-models,
    `timm/models/vision_transformer.py`.

    Example:
        >>> model = ViT(patch_size=4, dim=24, depth=2, heads=3, image_size=16)
        >>> images = jnp.zeros((5, 8, 8, 3))
        >>> features, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
        >>> features.shape, variables["params"]["pos_embed"].shape
        ((5, 24), (1, 17, 24))
    """

    patch_size: int
    dim: int
    depth: int
    heads: int
    image_size: int
    pooling: str = "token"
    stochastic_depth: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def feature_dim(self) -> int:
        """Dimension of the features."""
        return self.dim

    @property
    def minimum_image_size(self) -> int:
        """One patch."""
        return self.patch_size

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, views: int = 1) -> jax.Array:
        """Compute the features of a batch of images.

        Args:
            images: floating `[batch, height, width, channels]`, normalized, with any number of channels.
            train: Takes no effect: there is no BatchNorm.
            views: Takes no effect: rows do not depend on each other.

        Returns:
            float32 `[batch, feature_dim]`.
        """
        self._check(images)
        x = PatchEmbedding(self.patch_size, self.dim, self.dtype, name="patch_embed")(images)
        grid = x.shape[1], x.shape[2]
        x = x.reshape(len(x), -1, self.dim)
        side, tokens = self.image_size // self.patch_size, 1 if self.pooling == "token" else 0
        positions = self.param("pos_embed", _truncated_normal, (1, tokens + side**2, self.dim))
        if tokens:
            token = self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, self.dim))
            x = jnp.concatenate([jnp.broadcast_to(token.astype(x.dtype), (len(x), 1, self.dim)), x], axis=1)
        x = x + resize_positions(positions, tokens, grid).astype(x.dtype)

        def apply(block: nn.Module, x: jax.Array) -> Any:
            return block(x)

        if self.remat:
            apply = nn.remat(apply)
        for index in range(self.depth):
            drop = self.stochastic_depth * index / max(1, self.depth - 1)
            x = apply(TransformerBlock(self.heads, drop, self.dtype, name=f"blocks_{index}"), x)
        x = _layer_norm(x, jnp.float32, "norm")
        return x[:, 0] if tokens else jnp.mean(x, axis=1)

    def _check(self, images: jax.Array) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}; got {self.pooling!r}")
        if not 0 <= self.stochastic_depth < 1:
            raise ValueError(f"stochastic_depth must be at least 0 and below 1; got {self.stochastic_depth!r}")
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim, {self.dim}; got {self.heads}")
        if images.ndim != 4:
            raise ValueError(f"images must have shape [batch, height, width, channels]; got shape {images.shape}")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise TypeError(f"images must be normalized images of a floating dtype; got {images.dtype}")
        for side in (self.image_size, *images.shape[1:3]):
            if side % self.patch_size or side == 0:
                raise ValueError(f"patch_size must divide the side of the images, {side}; got {self.patch_size}")
