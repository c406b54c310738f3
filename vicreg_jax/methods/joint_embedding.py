"""What every method is made of, and the one interface that the train step, the checkpoint and the evaluation know."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
from flax import linen as nn

from vicreg_jax.methods.microbatches import in_microbatches

Tree = dict[str, Any]  # arrays in dictionaries: parameters by part, what is extra_state by name
Pair = tuple[Any, Any]  # the inputs of the two branches


class Variables(NamedTuple):
    """What `init` returns.

    Attributes:
      params: what the optimizer moves, by part: `{'backbone': ..., 'head': ...}` and the other modules there are.
      batch_stats: the running statistics of BatchNorm, by part.
      extra_state: what else the method carries from step to step (a target network, a queue), by name.
    """

    params: Tree
    batch_stats: Tree
    extra_state: Tree


class Outputs(NamedTuple):
    """What a method's forward pass leaves beside its loss.

    Attributes:
      terms: the unweighted terms of the loss, scalars by name.
      features: of the first view, from the backbone, `[batch, feature_dim]` float32.
      embeddings: of the first view, as the loss compares them (scaled to unit length where it does so itself),
        `[batch, dim]` float32.
      batch_stats: the running statistics of BatchNorm after both views.
      extra_state: what the method carries, for `after_update`.
    """

    terms: dict[str, jax.Array]
    features: jax.Array
    embeddings: jax.Array
    batch_stats: Tree
    extra_state: Tree


Loss = tuple[jax.Array, Outputs]  # what is differentiated, and the rest


@dataclass(frozen=True)
class JointEmbedding:
    """The base of all methods: two branches, of one network or of two, each a backbone and a head.

    A method says what its loss is, and where it carries more than parameters and BatchNorm's statistics between steps,
    how that begins (`init`) and what becomes of it after an update (`after_update`). Its fields are the config's
    `method` section: their names, defaults and, in `__post_init__`, what they take.

    Attributes:
      backbone: inputs of the first branch -> features `[batch, feature_dim]`. Like every part a Flax module that is
        called with `train=True` or `train=False`.
      head: features -> embeddings `[batch, dim]`.
      predictor: embeddings -> predictions `[batch, dim]`; None for none.
      second_backbone, second_head: those of the second branch where it has its own; None: the first one's.
      microbatches: parts of the batch that go through the networks one after the other; see `in_microbatches`. The loss
        is of the whole batch all the same.

    Class attributes:
      terms: the names of the loss's terms.
      takes_predictor: whether there is a use for a predictor.
      takes_second_branch: whether the branches may have weights of their own.
      head_options, predictor_options: arguments of `vicreg_jax.models.Head` that make it the official code's.
    """

    terms: ClassVar[tuple[str, ...]] = ()
    takes_predictor: ClassVar[bool] = False
    takes_second_branch: ClassVar[bool] = True
    head_options: ClassVar[Mapping[str, Any]] = {}
    predictor_options: ClassVar[Mapping[str, Any]] = {}

    backbone: nn.Module
    head: nn.Module
    _: KW_ONLY
    predictor: nn.Module | None = None
    second_backbone: nn.Module | None = None
    second_head: nn.Module | None = None
    microbatches: int = 1

    def __post_init__(self) -> None:
        """Checks the parts; a method with fields of its own extends it.

        Raises:
          ValueError: a part that the method has no use for.
        """
        name = type(self).__name__
        if self.predictor is not None and not self.takes_predictor:
            raise ValueError(f"predictor: got one, takes None, for {name} has none")
        if not self.takes_second_branch and (self.second_backbone is not None or self.second_head is not None):
            raise ValueError(f"second_backbone, second_head: got one, takes None, for the branches of {name} are alike")

    def check_batch_size(self, batch_size: int) -> None:
        """Refuses a global batch that the method cannot do with, in images.

        Raises:
          ValueError: naming the field that does not fit it.
        """

    def embedding_scale(self, dim: int) -> float:
        """The healthy standard deviation of `Outputs.embeddings`, a dimension: of unit vectors spread evenly."""
        return dim**-0.5

    def init(self, key: jax.Array, views: Pair) -> Variables:
        """The variables before the first step.

        Args:
          key: PRNG key.
          views: a pair of inputs such as `loss` takes; one row is enough.

        Raises:
          ValueError: where the two branches' embeddings are of different dimensions.
        """
        parts = ("backbone", "head", "predictor", "second_backbone", "second_head")
        keys = dict(zip(parts, jax.random.split(key, len(parts)), strict=True))
        params: Tree = {}
        batch_stats: Tree = {}

        def output_of(part: str, inputs: Any) -> Any:
            # A part that both branches share comes here twice, with the same key.
            output, variables = getattr(self, part).init_with_output(keys[part], inputs, train=False)
            params[part], batch_stats[part] = variables["params"], variables.get("batch_stats", {})
            return output

        backbones, heads = zip(*self._branches, strict=True)
        features = [output_of(part, view) for part, view in zip(backbones, views, strict=True)]
        if self.second_head is None:
            _check_dim("second_backbone: got features", features[1], "the first, for both share the head", features[0])
        embeddings = [output_of(part, inputs) for part, inputs in zip(heads, features, strict=True)]
        _check_dim("second_head: got embeddings", embeddings[1], "the first branch", embeddings[0])
        if self.predictor is not None:
            predictions = output_of("predictor", embeddings[0])
            _check_dim("predictor: got predictions", predictions, "the embeddings", embeddings[0])
        return Variables(params, batch_stats, {})

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Pair, key: jax.Array) -> Loss:
        """The loss of a batch of pairs.

        Args:
          params, batch_stats, extra_state: see `Variables`; the loss is differentiated by `params`.
          views: two views of each row, `[batch, height, width, channels]` float, normalized; or whatever the two
            branches take.
          key: PRNG key of this step, for what the method draws itself.

        Returns:
          The scalar loss over the global batch, and `Outputs`.
        """
        raise NotImplementedError

    def after_update(self, params: Tree, extra_state: Tree, progress: jax.Array) -> Tree:
        """What is extra_state to the next step.

        Args:
          params: the parameters after the optimizer's update.
          extra_state: `Outputs.extra_state` of this step.
          progress: the share of the run's updates that came before this one, from 0 to below 1.
        """
        return extra_state

    def embed(self, params: Tree, batch_stats: Tree, inputs: Any, branch: int = 0) -> tuple[jax.Array, jax.Array]:
        """Features and embeddings of inputs of that branch, with BatchNorm's running statistics."""
        outputs: list[Any] = [inputs]
        for part in self._branches[branch]:
            variables = {"params": params[part], "batch_stats": batch_stats[part]}
            outputs.append(getattr(self, part).apply(variables, outputs[-1], train=False))
        return outputs[1], outputs[2]

    @property
    def _branches(self) -> tuple[tuple[str, str], tuple[str, str]]:
        second_backbone = "backbone" if self.second_backbone is None else "second_backbone"
        second_head = "head" if self.second_head is None else "second_head"
        return ("backbone", "head"), (second_backbone, second_head)

    def _apply(self, part: str, params: Tree, batch_stats: Tree, inputs: Any) -> tuple[Any, Tree]:
        variables = {"params": params[part], "batch_stats": batch_stats[part]}
        apply = partial(getattr(self, part).apply, train=True, mutable=["batch_stats"])
        if self.microbatches == 1:
            output, updated = apply(variables, inputs)
        else:
            output, updated = in_microbatches(apply, variables, inputs, self.microbatches)
        return output, batch_stats | {part: updated.get("batch_stats", {})}

    def forward(self, params: Tree, batch_stats: Tree, view: Any, branch: int = 0) -> tuple[jax.Array, jax.Array, Tree]:
        """Features, embeddings and new running statistics of one view, with BatchNorm's statistics of this view."""
        backbone, head = self._branches[branch]
        features, batch_stats = self._apply(backbone, params, batch_stats, view)
        embeddings, batch_stats = self._apply(head, params, batch_stats, features)
        return features, embeddings, batch_stats

    def forward_pair(
        self, params: Tree, batch_stats: Tree, views: Pair
    ) -> tuple[jax.Array, jax.Array, jax.Array, Tree]:
        """Features of the first view, embeddings of both, and new running statistics; one view after the other."""
        features, z_a, batch_stats = self.forward(params, batch_stats, views[0])
        _, z_b, batch_stats = self.forward(params, batch_stats, views[1], branch=1)
        return features, z_a, z_b, batch_stats

    def predict_pair(
        self, params: Tree, batch_stats: Tree, z_a: jax.Array, z_b: jax.Array
    ) -> tuple[jax.Array, jax.Array, Tree]:
        """The predictor's outputs for both views, one after the other; the embeddings where there is none."""
        if self.predictor is None:
            return z_a, z_b, batch_stats
        p_a, batch_stats = self._apply("predictor", params, batch_stats, z_a)
        p_b, batch_stats = self._apply("predictor", params, batch_stats, z_b)
        return p_a, p_b, batch_stats


def _check_dim(got: str, array: jax.Array, of_whom: str, expected: jax.Array) -> None:
    if array.shape[-1] != expected.shape[-1]:
        raise ValueError(f"{got} of {array.shape[-1]} dimensions, takes {expected.shape[-1]}, as of {of_whom}")
