"""What differs between processes is named, with two of its values."""

import pytest

from vicreg_jax.runtime import agreement
from vicreg_jax.runtime.agreement import build_everywhere, disagreements, require_same
from vicreg_jax.runtime.errors import InputError


@pytest.mark.parametrize(
    ("said", "phrases"),
    [
        ([{"seed": 0}], []),
        ([{"seed": 0}, {"seed": 0}], []),
        ([{"seed": 0}, {"seed": 1}], ["seed must be the same in every process; got 0 in process 0 and 1 in process 1"]),
        (
            [{"seed": 0}, {"seed": 0}, {"seed": 2}, {"seed": 3}],
            ["seed must be the same in every process; got 0 in process 0 and 2 in process 2"],
        ),
        # Unknown, such as the commit where there is no git.
        ([{"commit": None}, {"commit": "a"}, {}], []),
        (
            [{"commit": None}, {"commit": "a"}, {"commit": "b"}],
            ["commit must be the same in every process; got 'a' in process 1 and 'b' in process 2"],
        ),
        (
            [{"dims": [32, 32], "name": "x", "lr": 0.3}, {"dims": [32, 16], "name": "x", "lr": 0.1}],
            [
                "dims must be the same in every process; got [32, 32] in process 0 and [32, 16] in process 1",
                "lr must be the same in every process; got 0.3 in process 0 and 0.1 in process 1",
            ],
        ),
    ],
)
def test_every_fact_that_differs_is_named_with_both_values(said, phrases):
    assert disagreements(said) == phrases


def test_long_lists_are_named_by_the_first_entry_that_differs():
    names = [f"class {index}" for index in range(100)]
    [phrase] = disagreements([{"class names": names}, {"class names": [*names[:50], "cat", *names[51:]]}])
    assert phrase == (
        "class names[50] must be the same in every process; got 'class 50' in process 0 and 'cat' in process 1"
    )


@pytest.fixture
def with_another(monkeypatch):
    """`with_another(said)`: as one of two processes, of which the second says that."""

    def beside(said):
        monkeypatch.setattr(agreement, "combine", lambda ours, combination: combination([ours, said]))

    return beside


def test_a_difference_is_refused_in_one_line(with_another):
    facts = {f"field {index}": index for index in range(10)}
    with_another(facts)
    require_same(facts)
    with_another(dict.fromkeys(facts, -1))
    with pytest.raises(InputError, match=r"^field 0 must be .*; field 7 must be .*; and 2 more$"):
        require_same(facts)


def test_what_one_process_cannot_build_no_process_builds(with_another):
    def refuse():
        raise InputError("config.data.name must be 'x'; got 'y'")

    assert build_everywhere(lambda: 7) == 7
    with pytest.raises(InputError, match=r"got 'y'$"):
        build_everywhere(refuse)
    with_another(None)
    with pytest.raises(InputError, match=r"got 'y' \(in process 0\)$"):
        build_everywhere(refuse)
    with_another("config.data.name must be 'x'; got 'z'")
    with pytest.raises(InputError, match=r"got 'z' \(in process 1\)$"):
        build_everywhere(lambda: 7)
