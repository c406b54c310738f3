"""The base class of all methods: the interface that the train step, the checkpoint and the evaluation rely on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from vicreg_jax.methods.branches import Branches, Tree, Views


class Variables(NamedTuple):
    """The variables of a method, as `JointEmbedding.init` returns them.

    Attributes:
        params: What the optimizer updates, by part: `{"backbone": ..., "head": ...}` and the other modules, if any.
        batch_stats: Running statistics of BatchNorm, by part.
        extra_state: Whatever else the method keeps between steps (a target network, a queue), by name.
    """

    params: Tree
    batch_stats: Tree
    extra_state: Tree


class Outputs(NamedTuple):
    """Auxiliary outputs of `JointEmbedding.loss`.

    Attributes:
        terms: The unweighted terms of the loss, scalars by name.
        features: Backbone features of the first view, `[batch, feature_dim]` float32.
        embeddings: Embeddings of the first view, `[batch, dim]` float32, as the loss compares them: with unit length if
            the loss normalizes them.
        batch_stats: Running statistics of BatchNorm after this step.
        extra_state: The method's extra state, for `JointEmbedding.after_update`.
    """

    terms: dict[str, jax.Array]
    features: jax.Array
    embeddings: jax.Array
    batch_stats: Tree
    extra_state: Tree


Loss = tuple[jax.Array, Outputs]  # the differentiated scalar, and the auxiliary outputs


@dataclass(frozen=True)
class JointEmbedding(Branches):
    """A method: branches that embed two or more views of the same images, and a loss that compares the embeddings.

    The arguments of every method are the attributes of `Branches`. A subclass defines `loss`. If it keeps more than
    parameters and BatchNorm statistics between steps, it also extends `init` and defines `after_update`. The fields of
    a subclass are the settings of the method: names and defaults, with their checks in `__post_init__`. They are the
    `method` section of a config.

    A subclass may also set these class attributes, beside those of `Branches`:

    * `terms`: names of the loss terms in `Outputs.terms`.
    * `head_options` and `predictor_options`: the arguments of `vicreg_jax.models.Head` that give the projector and the
      predictor of the official code.
    """

    terms: ClassVar[tuple[str, ...]] = ()
    head_options: ClassVar[Mapping[str, Any]] = {}
    predictor_options: ClassVar[Mapping[str, Any]] = {}

    def check_batch_size(self, batch_size: int) -> None:
        """Check that the method can train with this global batch size, in images.

        Raises:
            ValueError: If it cannot. The message names the field that does not fit the batch size.
        """

    def embedding_scale(self, dim: int) -> float:
        """Expected standard deviation of each dimension of `Outputs.embeddings` without collapse.

        The default is for unit vectors spread evenly over the sphere.
        """
        return dim**-0.5

    def init(self, key: jax.Array, views: Views) -> Variables:
        """Initialize the variables.

        Args:
            key: PRNG key.
            views: Inputs, as for `loss`; one row of two views is enough.

        Raises:
            ValueError: If the dimensions of the parts do not fit.
        """
        parts = ("backbone", "head", "predictor", "second_backbone", "second_head")
        keys = dict(zip(parts, jax.random.split(key, len(parts)), strict=True))
        params: Tree = {}
        batch_stats: Tree = {}

        def init_part(part: str, inputs: Any) -> Any:
            # A part that both branches share is initialized twice, with the same key and so the same result.
            output, variables = getattr(self, part).init_with_output(keys[part], inputs, train=False)
            params[part], batch_stats[part] = variables["params"], variables.get("batch_stats", {})
            return output

        views = views[:2]  # further views go through the parts of the first
        backbones, heads = zip(*self._branches, strict=True)
        features = [init_part(part, view) for part, view in zip(backbones, views, strict=True)]
        if self.second_head is None:
            _check_dim(
                "second_backbone", "features", features[1], features[0], "the first backbone (both share the head)"
            )
        embeddings = [init_part(part, inputs) for part, inputs in zip(heads, features, strict=True)]
        _check_dim("second_head", "embeddings", embeddings[1], embeddings[0], "the first head")
        if self.predictor is not None:
            predictions = init_part("predictor", embeddings[0])
            _check_dim("predictor", "predictions", predictions, embeddings[0], "the head")
        return Variables(params, batch_stats, {})

    def replace_weights(self, variables: Variables, weights: Mapping[str, Tree]) -> Variables:
        """Put other weights in place of the initial ones, such as those of a file.

        Args:
            variables: As `init` returns them.
            weights: `{"params": ..., "batch_stats": ...}` by part. Arrays that are missing keep their initial values.
        """
        params, batch_stats = dict(variables.params), dict(variables.batch_stats)
        for part, given in weights.items():
            params[part] = merge_weights(params[part], given["params"])
            batch_stats[part] = merge_weights(batch_stats[part], given["batch_stats"])
        return variables._replace(params=params, batch_stats=batch_stats)

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Views, key: jax.Array) -> Loss:
        """Compute the loss of a batch.

        Args:
            params: See `Variables`. The loss is differentiated with respect to them.
            batch_stats: See `Variables`.
            extra_state: See `Variables`.
            views: Two or more views of each image, the global ones first, `[batch, height, width, channels]` float,
                normalized, each of any size; or whatever inputs the two branches have.
            key: PRNG key of this step, for the method's own random draws.

        Returns:
            The scalar loss over the global batch, and `Outputs`.
        """
        raise NotImplementedError

    def after_update(self, params: Tree, extra_state: Tree, progress: jax.Array) -> Tree:
        """Update the extra state once the optimizer has updated the parameters.

        Args:
            params: The updated parameters.
            extra_state: `Outputs.extra_state` of this step.
            progress: Fraction of the run's steps before this one, in [0, 1).

        Returns:
            The extra state of the next step.
        """
        return extra_state


def merge_weights(initial: Tree, given: Tree) -> Tree:
    """Put arrays in place of the initial ones; those that are missing keep their initial values."""
    return unflatten_dict(flatten_dict(initial) | flatten_dict(given))


def _check_dim(part: str, what: str, output: jax.Array, expected: jax.Array, source: str) -> None:
    if output.shape[-1] != expected.shape[-1]:
        raise ValueError(
            f"{part} must return {what} of dimension {expected.shape[-1]}, as {source}; got {output.shape[-1]}"
        )
