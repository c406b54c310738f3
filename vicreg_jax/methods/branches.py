"""The networks of a method, and how views go through them."""

import inspect
import itertools
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from vicreg_jax.losses import in_microbatches
from vicreg_jax.methods.interleave import interleave, separate
from vicreg_jax.models import STOCHASTIC_DEPTH

Tree = dict[str, Any]  # nested dictionaries of arrays
Views = tuple[Any, ...]  # the inputs, one for each view


@dataclass(frozen=True)
class Branches:
    """Two branches, each a backbone and a head, that share their modules or have separate ones; perhaps a predictor.

    The views of an image go through them: one through each branch, or any number through branches that are one.

    A subclass may set these class attributes:

    * `takes_predictor`: whether the method can use a predictor.
    * `takes_second_branch`: whether the two branches may have separate weights.
    * `takes_many_views`: whether there may be more than two views.
    * `statistics_per_view`: whether BatchNorm has separate batch statistics for each view. If not, views of one size
      share them, unless the branches differ.

    Attributes:
        backbone: Maps the inputs of the first branch to features `[batch, feature_dim]`. Every part is a Flax module
            and is called with `train=True` or `train=False`. A part whose `__call__` also takes `views` may be called
            with several views as one batch, see `vicreg_jax.models.ResNet`.
        head: Maps features to embeddings `[batch, dim]`.
        predictor: Maps embeddings to predictions `[batch, dim]`; None: no predictor.
        second_backbone: Backbone of the second branch; None: shared with the first.
        second_head: Head of the second branch; None: shared with the first.
        microbatches: Number of micro-batches that go through the networks one after the other, see
            `vicreg_jax.losses.in_microbatches`. The loss is still over the whole batch.
        global_views: Number of global views, which come first. The others are local: they are compared with global
            views only, and do not move BatchNorm's running statistics, with which whole images are embedded.

    Raises:
        ValueError: If a field is out of range, or a part is given that the method does not use.
    """

    takes_predictor: ClassVar[bool] = False
    takes_second_branch: ClassVar[bool] = True
    takes_many_views: ClassVar[bool] = False
    statistics_per_view: ClassVar[bool] = True

    backbone: nn.Module
    head: nn.Module
    _: KW_ONLY
    predictor: nn.Module | None = None
    second_backbone: nn.Module | None = None
    second_head: nn.Module | None = None
    microbatches: int = 1
    global_views: int = 2

    def __post_init__(self) -> None:
        """Check the parts; a method with fields extends it."""
        method = type(self).__name__
        if self.predictor is not None and not self.takes_predictor:
            raise ValueError(
                f"predictor must be None for {method}, which does not use one; got {type(self.predictor).__name__}"
            )
        for name in ("second_backbone", "second_head"):
            part = getattr(self, name)
            if part is not None and not self.takes_second_branch:
                raise ValueError(
                    f"{name} must be None for {method}, whose branches share their weights; got {type(part).__name__}"
                )

    def check_views(self, views: int) -> None:
        """Check that the method can train with that many views of each image.

        Raises:
            ValueError: If it cannot.
        """
        if views > 2 and not self.takes_many_views:
            raise ValueError(f"views must be 2 for {type(self).__name__}, which compares two views; got {views}")
        if self._branches[0] != self._branches[1] and (views > 2 or self.global_views < 2):
            raise ValueError(
                f"views must be 2, both global, if the branches differ; got {views} with "
                f"global_views={self.global_views}"
            )

    def embed(self, params: Tree, batch_stats: Tree, inputs: Any, branch: int = 0) -> tuple[jax.Array, jax.Array]:
        """Compute features and embeddings with one branch and BatchNorm's running statistics."""
        outputs: list[Any] = [inputs]
        for part in self._branches[branch]:
            variables = {"params": params[part], "batch_stats": batch_stats[part]}
            outputs.append(getattr(self, part).apply(variables, outputs[-1], train=False))
        return outputs[1], outputs[2]

    def forward(
        self, params: Tree, batch_stats: Tree, view: Any, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, Tree]:
        """Compute features, embeddings and new running statistics of one view, with its own batch statistics.

        Arguments as for `forward_pair`; the first branch computes.
        """
        backbone, head = self._branches[0]
        features, batch_stats = self._apply(backbone, params, batch_stats, view, key)
        embeddings, batch_stats = self._apply(head, params, batch_stats, features)
        return features, embeddings, batch_stats

    def forward_views(
        self, params: Tree, batch_stats: Tree, views: Views, key: jax.Array | None = None
    ) -> tuple[jax.Array, tuple[jax.Array, ...], Tree]:
        """Send all views through their branches, each with its own batch statistics (see `statistics_per_view`).

        Views of one size that share a part go through it as one batch, if the part takes `views` (see `backbone`) and
        there are no micro-batches: the program is shorter, and the result is that of one view after the other. Global
        and local views go apart.

        Args:
            params: See `loss`.
            batch_stats: See `loss`.
            views: See `loss`.
            key: PRNG key of the backbone's stochastic depth; None: every block is kept, as in a target network.

        Returns:
            Features of the first view, embeddings of all views, and new running statistics.
        """
        self.check_views(len(views))
        branches = self._branches if len(views) == 2 else self._branches[:1] * len(views)
        backbones, heads = zip(*branches, strict=True)
        features, batch_stats = self._apply_views(backbones, params, batch_stats, views, key)
        embeddings, batch_stats = self._apply_views(heads, params, batch_stats, features)
        return features[0], embeddings, batch_stats

    def forward_pair(
        self, params: Tree, batch_stats: Tree, views: Views, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array, Tree]:
        """Send two views through their branches, as `forward_views` does.

        Returns:
            Features of the first view, embeddings of both views, and new running statistics.
        """
        features, (z_a, z_b), batch_stats = self.forward_views(params, batch_stats, views, key)
        return features, z_a, z_b, batch_stats

    def predict_views(self, params: Tree, batch_stats: Tree, embeddings: Views) -> tuple[tuple[jax.Array, ...], Tree]:
        """Send the embeddings of all views through the predictor, as `forward_views` does.

        Returns:
            Predictions of all views, and new running statistics. Without a predictor, the embeddings themselves.
        """
        if self.predictor is None:
            return embeddings, batch_stats
        return self._apply_views(("predictor",) * len(embeddings), params, batch_stats, embeddings)

    @property
    def _branches(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Names of backbone and head of both branches."""
        second_backbone = "backbone" if self.second_backbone is None else "second_backbone"
        second_head = "head" if self.second_head is None else "second_head"
        return ("backbone", "head"), (second_backbone, second_head)

    def _apply_views(
        self, parts: tuple[str, ...], params: Tree, batch_stats: Tree, inputs: Views, key: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, ...], Tree]:
        """Send each view through its part: consecutive views of one kind and one size as one batch, if possible."""
        outputs: list[jax.Array] = []
        while len(outputs) < len(inputs):
            first = len(outputs)
            group = self._as_one_batch(parts, inputs, first)
            group_key = key if key is None or len(group) == len(inputs) else jax.random.fold_in(key, first)
            if len(group) == 1:
                output, updated = self._apply(parts[first], params, batch_stats, *group, group_key)
                outputs.append(output)
            else:
                # With shared statistics, each micro-batch has all views of its images.
                block, options = (self.microbatches, {}) if self._shares_statistics else (1, {"views": len(group)})
                rows = interleave(*group, block=block)
                output, updated = self._apply(parts[first], params, batch_stats, rows, group_key, **options)
                outputs += separate(output, len(group), block=block)
            if first < self.global_views:  # the running statistics are for whole images
                batch_stats = updated
        return tuple(outputs), batch_stats

    def _as_one_batch(self, parts: tuple[str, ...], inputs: Views, first: int) -> Views:
        """The inputs from number `first` on that go through its part as one batch."""
        part = parts[first]
        if not (self._shares_statistics or (self.microbatches == 1 and _takes_views(getattr(self, part)))):
            return inputs[first : first + 1]
        end = self.global_views if first < self.global_views else len(inputs)
        same = itertools.takewhile(
            lambda view: parts[view] == part and _shapes(inputs[view]) == _shapes(inputs[first]),
            range(first, min(end, len(inputs))),
        )
        return tuple(inputs[view] for view in same)

    @property
    def _shares_statistics(self) -> bool:
        return not self.statistics_per_view and self._branches[0] == self._branches[1]

    def _apply(
        self, part: str, params: Tree, batch_stats: Tree, inputs: Any, key: jax.Array | None = None, **options: Any
    ) -> tuple[Any, Tree]:
        variables = {"params": params[part], "batch_stats": batch_stats[part]}
        if key is not None:
            options["rngs"] = {STOCHASTIC_DEPTH: key}
        module = getattr(self, part)
        apply = jax.named_scope(part)(partial(module.apply, train=True, mutable=["batch_stats"], **options))
        if self.microbatches == 1:
            output, updated = apply(variables, inputs)
        else:
            output, updated = in_microbatches(apply, variables, inputs, self.microbatches, has_aux=True)
        return output, batch_stats | {part: updated.get("batch_stats", {})}


def _takes_views(part: nn.Module) -> bool:
    """Whether it takes several views as one batch, and is fastest so."""
    return "views" in inspect.signature(type(part).__call__).parameters and not getattr(part, "folded", False)


def _shapes(inputs: Any) -> Any:
    return jax.tree.map(jnp.shape, inputs)
