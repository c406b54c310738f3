"""MoCo v2 (He et al., CVPR 2020, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297): a queue of negative keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vicreg_jax.losses import info_nce_loss
from vicreg_jax.losses.l2_normalize import l2_normalize
from vicreg_jax.methods.arguments import below_one, fraction, positive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Pair, Tree, Variables
from vicreg_jax.methods.target import follow, init_target, momentum_at


@dataclass(frozen=True)
class MoCo(JointEmbedding):
    """The first view is the query, the second its key from the target network; negatives are the keys of past batches.

    The official code moves the target before the keys are made, towards the parameters that the last update left. Here
    it moves right after that update, which is the same.

    v1 is `temperature=0.07` with a head of one layer.

    Attributes:
      temperature: see `vicreg_jax.losses.info_nce_loss`.
      queue_size: negative keys; a multiple of those that a step brings.
      momentum: of the target at the first update, below 1.
      final_momentum: at the last; the rise between them is a cosine. The official code has one value.
      symmetric: the second view is a query as well, both directions are summed, and a step brings twice as many keys
        (the official code's CIFAR notebook).
      batch_norm_groups: parts of the batch that have BatchNorm statistics of their own, as devices have in the official
        code. From two on the keys are shuffled over the parts (ShuffleBN), so that a query cannot tell its key by the
        statistics they share. The batch must be divisible by it.

    Source: facebookresearch/moco, `moco/builder.py`: a head without BatchNorm.
    """

    takes_second_branch: ClassVar[bool] = False
    head_options: ClassVar[Mapping[str, Any]] = {"batch_norm": False, "output_bias": True}

    temperature: float = 0.2
    queue_size: int = 65536
    momentum: float = 0.999
    final_momentum: float = 0.999
    symmetric: bool = False
    batch_norm_groups: int = 1

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        positive(self, "temperature", "queue_size", "batch_norm_groups")
        below_one(self, "momentum")
        fraction(self, "final_momentum")

    def check_batch_size(self, batch_size: int) -> None:
        """Refuses a queue that a step's keys do not divide, and a batch that the groups do not divide."""
        keys = batch_size * (2 if self.symmetric else 1)
        if self.queue_size % keys:
            raise ValueError(
                f"queue_size: got {self.queue_size}, takes a multiple of {keys}, the keys that a step brings "
                f"(batch {batch_size}, symmetric {self.symmetric})"
            )
        if batch_size // self.microbatches % self.batch_norm_groups:
            raise ValueError(
                f"batch_norm_groups: got {self.batch_norm_groups}, takes a number that divides the batch "
                f"(or micro-batch), {batch_size // self.microbatches}"
            )

    def init(self, key: jax.Array, views: Pair) -> Variables:
        """Beside the target network a queue of random unit vectors `[queue_size, dim]`, and where the next keys go."""
        params, batch_stats, _ = super().init(key, views)
        _, z, _ = jax.eval_shape(self.forward, params, batch_stats, views[0])
        queue_key = jax.random.fold_in(key, 1000)  # far from the keys of the parts, which are split off
        queue = l2_normalize(jax.random.normal(queue_key, (self.queue_size, z.shape[1])))
        extra_state = init_target(params, batch_stats) | {"queue": queue, "queue_position": jnp.zeros((), jnp.int32)}
        return Variables(params, batch_stats, extra_state)

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Pair, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        target_params, target_stats = extra_state["target_params"], extra_state["target_batch_stats"]
        queries, keys = [], []
        directions = ((0, 1), (1, 0)) if self.symmetric else ((0, 1),)
        for query_view, key_view in directions:
            outputs = self._forward_groups(params, batch_stats, views[query_view])
            queries.append(outputs[:2])
            batch_stats = outputs[2]
            shuffle_key = jax.random.fold_in(key, key_view)
            of_view, target_stats = self._keys(target_params, target_stats, views[key_view], shuffle_key)
            keys.append(of_view)
        loss = sum(
            (
                info_nce_loss(query, positive_key, extra_state["queue"], temperature=self.temperature)
                for (_, query), positive_key in zip(queries, keys, strict=True)
            ),
            start=jnp.zeros(()),
        )
        # The keys of this step come into the queue after it was compared with.
        new_keys = jnp.concatenate(keys)
        position = extra_state["queue_position"]
        extra_state = extra_state | {
            "target_batch_stats": target_stats,
            "queue": jax.lax.dynamic_update_slice_in_dim(extra_state["queue"], new_keys, position, axis=0),
            "queue_position": (position + len(new_keys)) % self.queue_size,
        }
        features, query = queries[0]
        return loss, Outputs({}, features, l2_normalize(query), batch_stats, extra_state)

    def after_update(self, params: Tree, extra_state: Tree, progress: jax.Array) -> Tree:
        """The target follows."""
        return follow(extra_state, params, momentum_at(progress, self.momentum, self.final_momentum))

    def _keys(self, params: Tree, batch_stats: Tree, view: jax.Array, key: jax.Array) -> tuple[jax.Array, Tree]:
        """The target's embeddings at unit length, without a gradient."""
        if self.batch_norm_groups == 1:
            _, z, batch_stats = self.forward(params, batch_stats, view)
        else:
            order = jax.random.permutation(key, len(view))
            _, z, batch_stats = self._forward_groups(params, batch_stats, jnp.take(view, order, axis=0))
            z = z[jnp.argsort(order)]
        return jax.lax.stop_gradient(l2_normalize(z)), batch_stats

    def _forward_groups(self, params: Tree, batch_stats: Tree, view: jax.Array) -> tuple[jax.Array, jax.Array, Tree]:
        """`forward` with statistics by group; the running ones are the mean over the groups."""
        if self.batch_norm_groups == 1:
            return self.forward(params, batch_stats, view)
        groups = view.reshape(self.batch_norm_groups, -1, *view.shape[1:])
        features, z, batch_stats = jax.vmap(self.forward, in_axes=(None, None, 0))(params, batch_stats, groups)
        mean_stats = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), batch_stats)
        return features.reshape(len(view), -1), z.reshape(len(view), -1), mean_stats
