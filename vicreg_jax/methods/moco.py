"""MoCo v2 (He et al., CVPR 2020, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297): a queue of negative keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vicreg_jax.losses import info_nce_loss
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.methods.arguments import check_below_one, check_fraction, check_positive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Tree, Variables, Views
from vicreg_jax.methods.target_network import ema_update, init_target, momentum_schedule


@dataclass(frozen=True)
class MoCo(JointEmbedding):
    """The first view is the query, the target network's second view its key, and past keys are the negatives.

    The official code updates the target network before it computes the keys of a step; this one updates it after the
    optimizer's update of the step before. Both compute the keys with the same target.

    With more than two views, the last global one gives the keys, and all others are queries. With `symmetric`, every
    global view gives keys and every view is a query of those of the others. The loss is the mean over these pairs,
    twice the mean with `symmetric`: the scale of two views.

    For MoCo v1 set `temperature=0.07` and a head with one layer.

    Attributes:
        temperature: Divides the cosine similarities; above 0.
        queue_size: Number of negative keys; a multiple of the keys of one step.
        momentum: Momentum of the EMA update at the first step; below 1.
        final_momentum: Momentum at the last step, reached along a cosine. The official code has a constant momentum.
        symmetric: If True, the second view is a query as well, the loss sums both directions, and a step adds the keys
            of all global views (the official code's CIFAR notebook).
        batch_norm_groups: Number of groups of the batch with separate BatchNorm batch statistics, as on the devices of
            the official code. With two or more, the keys are shuffled over the groups (ShuffleBN), so that a query
            cannot find its key by their shared statistics. Must divide the batch size.

    Source: facebookresearch/moco, `moco/builder.py`. The head has no BatchNorm.
    """

    takes_many_views: ClassVar[bool] = True
    takes_second_branch: ClassVar[bool] = False
    head_options: ClassVar[Mapping[str, Any]] = {"batch_norm": False, "output_bias": True}

    temperature: float = 0.2
    queue_size: int = 65536
    momentum: float = 0.999
    final_momentum: float = 0.999
    symmetric: bool = False
    batch_norm_groups: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_positive(self, "temperature", "queue_size", "batch_norm_groups")
        check_below_one(self, "momentum")
        check_fraction(self, "final_momentum")
        if self.global_views < 2:
            raise ValueError(f"global_views must be at least 2 for MoCo, a query and its key; got {self.global_views}")

    def check_batch_size(self, batch_size: int) -> None:
        """Raise ValueError unless a step's keys divide the queue, and the groups divide the batch (or micro-batch)."""
        keys = batch_size * (self.global_views if self.symmetric else 1)
        if self.queue_size % keys:
            raise ValueError(
                f"queue_size must be a multiple of {keys}, the number of keys per step (batch size {batch_size}, "
                f"symmetric {self.symmetric}); got {self.queue_size}"
            )
        rows = batch_size // self.microbatches
        if rows % self.batch_norm_groups:
            raise ValueError(
                f"batch_norm_groups must divide the batch (or micro-batch) size of {rows}; got {self.batch_norm_groups}"
            )

    def init(self, key: jax.Array, views: Views) -> Variables:
        """Initialize the network, and as extra state the target network and a queue of random unit vectors.

        The queue is `[queue_size, dim]`; `queue_position` is the row of the next key.
        """
        params, batch_stats, _ = super().init(key, views)
        _, z, _ = jax.eval_shape(self.forward, params, batch_stats, views[0])
        queue_key = jax.random.fold_in(key, 1000)  # independent of the parts' keys, which are split from the same key
        queue = l2_normalize(jax.random.normal(queue_key, (self.queue_size, z.shape[1])))
        extra_state = init_target(params, batch_stats) | {"queue": queue, "queue_position": jnp.zeros((), jnp.int32)}
        return Variables(params, batch_stats, extra_state)

    def replace_weights(self, variables: Variables, weights: Mapping[str, Tree]) -> Variables:
        """See `JointEmbedding.replace_weights`; the target network is a copy again."""
        params, batch_stats, extra_state = super().replace_weights(variables, weights)
        return Variables(params, batch_stats, extra_state | init_target(params, batch_stats))

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Views, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        target_params, target_stats = extra_state["target_params"], extra_state["target_batch_stats"]
        last = self.global_views - 1
        # The keys of the last view come first in the queue.
        key_views = range(last, -1, -1) if self.symmetric else (last,)
        query_views = [view for view in range(len(views)) if self.symmetric or view != last]
        features, queries, keys = {}, {}, {}
        for view in query_views:
            depth_key = jax.random.fold_in(key, len(views) + view)
            features[view], queries[view], updated = self._forward_groups(params, batch_stats, views[view], depth_key)
            batch_stats = updated if view <= last else batch_stats
        for view in key_views:
            shuffle_key = jax.random.fold_in(key, view)
            keys[view], target_stats = self._keys(target_params, target_stats, views[view], shuffle_key)
        losses = [
            info_nce_loss(queries[query], keys[of_key], extra_state["queue"], temperature=self.temperature)
            for query in query_views
            for of_key in key_views
            if query != of_key
        ]
        loss = (2 if self.symmetric else 1) * jnp.mean(jnp.stack(losses))
        # The keys of this step enter the queue after the loss has used it.
        new_keys = jnp.concatenate(list(keys.values()))
        position = extra_state["queue_position"]
        extra_state = extra_state | {
            "target_batch_stats": target_stats,
            "queue": jax.lax.dynamic_update_slice_in_dim(extra_state["queue"], new_keys, position, axis=0),
            "queue_position": (position + len(new_keys)) % self.queue_size,
        }
        return loss, Outputs({}, features[0], l2_normalize(queries[0]), batch_stats, extra_state)

    def after_update(self, params: Tree, extra_state: Tree, progress: jax.Array) -> Tree:
        """Update the target network."""
        return ema_update(extra_state, params, momentum_schedule(progress, self.momentum, self.final_momentum))

    def _keys(self, params: Tree, batch_stats: Tree, view: jax.Array, key: jax.Array) -> tuple[jax.Array, Tree]:
        """Unit-length embeddings of the target network, without a gradient, and its running statistics."""
        if self.batch_norm_groups == 1:
            _, z, batch_stats = self.forward(params, batch_stats, view)
        else:
            order = jax.random.permutation(key, len(view))
            _, z, batch_stats = self._forward_groups(params, batch_stats, jnp.take(view, order, axis=0))
            z = z[jnp.argsort(order)]
        return jax.lax.stop_gradient(l2_normalize(z)), batch_stats

    def _forward_groups(
        self, params: Tree, batch_stats: Tree, view: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, Tree]:
        """`forward` with separate batch statistics for each group; running statistics are averaged over the groups."""
        if self.batch_norm_groups == 1:
            return self.forward(params, batch_stats, view, key)
        groups = view.reshape(self.batch_norm_groups, -1, *view.shape[1:])
        keys = None if key is None else jax.random.split(key, self.batch_norm_groups)
        forward = jax.vmap(self.forward, in_axes=(None, None, 0, None if key is None else 0))
        features, z, batch_stats = forward(params, batch_stats, groups, keys)
        mean_stats = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), batch_stats)
        return features.reshape(len(view), -1), z.reshape(len(view), -1), mean_stats
