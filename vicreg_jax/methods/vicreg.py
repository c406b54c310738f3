"""VICReg (Bardes, Ponce, LeCun, ICLR 2022, arXiv 2105.04906): one network, two views, three terms."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
from flax import linen as nn

from vicreg_jax.losses import vicreg_loss


class Outputs(NamedTuple):
    """What a method's forward pass leaves beside its loss.

    Attributes:
      terms: the unweighted terms of the loss, scalars by name.
      features: of the first view, from the backbone, `[batch, feature_dim]` float32.
      embeddings: of the first view, from the head, `[batch, dim]` float32.
      batch_stats: the running statistics of BatchNorm after both views.
    """

    terms: dict[str, jax.Array]
    features: jax.Array
    embeddings: jax.Array
    batch_stats: Any


@dataclass(frozen=True)
class VICReg:
    """Both views go through the same backbone and expander, one after the other: BatchNorm's statistics are per view.

    Attributes:
      backbone: images `[batch, height, width, channels]` -> features `[batch, feature_dim]`.
      head: features -> embeddings `[batch, dim]`.
      invariance_weight, variance_weight, covariance_weight, target_std, epsilon, unbiased_covariance: see
        `vicreg_jax.losses.vicreg_loss`.
    """

    terms: ClassVar[tuple[str, ...]] = ("invariance", "variance", "covariance")

    backbone: nn.Module
    head: nn.Module
    invariance_weight: float = 25.0
    variance_weight: float = 25.0
    covariance_weight: float = 1.0
    target_std: float = 1.0
    epsilon: float = 1e-4
    unbiased_covariance: bool = False

    def init(self, key: jax.Array, images: jax.Array) -> tuple[Any, Any]:
        """Returns the parameters and the BatchNorm statistics, each `{'backbone': ..., 'head': ...}`."""
        backbone_key, head_key = jax.random.split(key)
        features, backbone = self.backbone.init_with_output(backbone_key, images, train=False)
        head = self.head.init(head_key, features, train=False)
        variables = {"backbone": backbone, "head": head}
        params = {part: v["params"] for part, v in variables.items()}
        batch_stats = {part: v.get("batch_stats", {}) for part, v in variables.items()}
        return params, batch_stats

    def _forward(self, params: Any, batch_stats: Any, view: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        output: Any = view
        new_stats, outputs = {}, {}
        for part, module in (("backbone", self.backbone), ("head", self.head)):
            variables = {"params": params[part], "batch_stats": batch_stats[part]}
            output, updated = module.apply(variables, output, train=True, mutable=["batch_stats"])
            new_stats[part] = updated.get("batch_stats", {})
            outputs[part] = output
        return outputs["backbone"], outputs["head"], new_stats

    def embed(self, params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        """Embeddings `[batch, dim]` of normalised images, with BatchNorm's running statistics."""
        output: Any = images
        for part, module in (("backbone", self.backbone), ("head", self.head)):
            variables = {"params": params[part], "batch_stats": batch_stats[part]}
            output = module.apply(variables, output, train=False)
        return output

    def loss(self, params: Any, batch_stats: Any, views: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, Outputs]:
        """The loss of a batch of view pairs, each `[batch, height, width, channels]` float, normalised.

        Returns:
          The scalar loss over the global batch, and `Outputs`.
        """
        view_a, view_b = views
        features, z_a, batch_stats = self._forward(params, batch_stats, view_a)
        _, z_b, batch_stats = self._forward(params, batch_stats, view_b)
        loss = vicreg_loss(
            z_a,
            z_b,
            invariance_weight=self.invariance_weight,
            variance_weight=self.variance_weight,
            covariance_weight=self.covariance_weight,
            target_std=self.target_std,
            epsilon=self.epsilon,
            unbiased_covariance=self.unbiased_covariance,
        )
        terms = {name: getattr(loss, name) for name in self.terms}
        return loss.loss, Outputs(terms, features, z_a, batch_stats)
