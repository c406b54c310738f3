import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vicreg_jax.evaluation.knn import knn_accuracy, knn_predict, nearest_neighbors


def reference_similarities(bank, queries):
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
    return queries @ bank.T


def reference_predict(bank, labels, queries, num_classes, neighbors, temperature):
    similarities = reference_similarities(bank, queries)
    votes = np.zeros((len(queries), num_classes))
    for row, order in enumerate(np.argsort(-similarities, axis=1)[:, :neighbors]):
        for place in order:
            votes[row, labels[place]] += np.exp((similarities[row, place] - 1) / temperature)
    return votes.argmax(1)


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    return rng.normal(size=(97, 12)), rng.integers(0, 4, 97), rng.normal(size=(41, 12))


@pytest.mark.parametrize(("chunk", "bank_chunk"), [pytest.param(1024, 65536, marks=pytest.mark.slow), (16, 30)])
def test_neighbors_and_votes_equal_a_float64_reference(split, chunk, bank_chunk):
    bank, labels, queries = split
    sizes = {"chunk": chunk, "bank_chunk": bank_chunk}
    similarities = reference_similarities(bank, queries)
    expected = np.argsort(-similarities, axis=1)[:, :7]
    found = nearest_neighbors(bank, queries, neighbors=7, **sizes)
    np.testing.assert_array_equal(found.indices, expected)
    np.testing.assert_allclose(found.similarities, np.take_along_axis(similarities, expected, axis=1), atol=1e-6)
    for neighbors, temperature in ((20, 0.07), (20, 1.0), (20, 0.001), (1, 0.07)):
        predicted = knn_predict(
            (bank, labels), queries, num_classes=4, neighbors=neighbors, temperature=temperature, **sizes
        )
        expected_classes = reference_predict(bank, labels, queries, 4, neighbors, temperature)
        np.testing.assert_array_equal(predicted, expected_classes)


def test_more_neighbors_than_rows(split):
    bank, labels, queries = split
    found = nearest_neighbors(bank[:5], queries, neighbors=20)
    assert found.indices.shape == (len(queries), 5)
    np.testing.assert_array_equal(np.sort(found.indices, axis=1), np.tile(np.arange(5), (len(queries), 1)))
    np.testing.assert_array_equal(
        knn_predict((bank[:5], labels[:5]), queries, num_classes=4),
        reference_predict(bank[:5], labels[:5], queries, 4, 20, 0.07),
    )


@pytest.mark.parametrize("bank_chunk", [65536, 3])
def test_equal_similarities_go_to_the_smaller_index(bank_chunk):
    bank = np.eye(4)[[2, 0, 1, 0, 0, 3, 0]]
    found = nearest_neighbors(bank, 5 * np.eye(4)[:1], neighbors=3, bank_chunk=bank_chunk)
    np.testing.assert_array_equal(found.indices, [[1, 3, 4]])


def test_equal_votes_go_to_the_smaller_class():
    bank = np.eye(3)[[0, 0]]
    assert knn_predict((bank, np.array([2, 1])), np.eye(3)[:1], num_classes=3)[0] == 1


def test_zero_features_and_rows_without_a_label_do_no_harm():
    bank = np.array([[0.0, 0.0], [1.0, 0.1], [1.0, 0.0]])
    predicted = knn_predict((bank, np.array([0, 1, -1])), np.array([[1.0, 0.0], [0.0, 0.0]]), num_classes=2)
    assert predicted[0] == 1


def test_sharded_arrays_give_the_same(split):
    bank, _, queries = split
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    bank, queries = (jnp.asarray(x[: len(x) // 8 * 8], jnp.float32) for x in (bank, queries))
    expected = nearest_neighbors(bank, queries, chunk=16)
    sharded = nearest_neighbors(jax.device_put(bank, rows), jax.device_put(queries, rows), chunk=16)
    np.testing.assert_array_equal(sharded.indices, expected.indices)


def test_accuracy(split):
    bank, labels, _ = split
    assert knn_accuracy((bank, labels), (bank, labels), num_classes=4, neighbors=1) == 1.0
    wrong = (labels + 1) % 4
    assert knn_accuracy((bank, labels), (bank, wrong), num_classes=4, neighbors=1) == 0.0


def test_rows_of_any_scale_are_normalized(split):
    bank, _, queries = (x.astype(np.float32) for x in split)
    expected = nearest_neighbors(bank, queries).indices
    for scale in (1e-18, 1e25):  # their squares underflow and overflow in float32
        np.testing.assert_array_equal(nearest_neighbors(np.float32(scale) * bank, queries).indices, expected)


def test_nothing_to_search():
    with pytest.raises(ValueError, match=r"^bank must have at least one row; got none$"):
        nearest_neighbors(np.zeros((0, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"^queries must have at least one row; got none$"):
        nearest_neighbors(np.ones((2, 3)), np.zeros((0, 3)))
