"""What several processes tell each other through JAX's coordination service: no device and no compiler takes part.

So they can agree before anything is compiled, however long one of them takes, and they notice when one has ended.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax._src import distributed  # the service's client has no public name

from vicreg_jax.runtime.errors import ProcessLost

WAIT_SECONDS = 3600
"""How long processes wait for one that lives but does not answer: it prepares a dataset, or compiles."""

_PLACE = "vicreg_jax"
_LEFT = f"{_PLACE}/left"
_SECONDS_OF_ONE_LOOK = 1.0
_SECONDS_TO_EXIT = 2

_rounds = itertools.count()


def is_connected() -> bool:
    """Whether this is one of several processes that share a coordination service."""
    return distributed.global_state.client is not None and distributed.global_state.num_processes > 1


def combine(ours: Any, combination: Callable[[list[Any]], Any]) -> Any:
    """Applies a function to what all processes say; every process gets the same answer.

    All processes call it the same number of times, in the same order, and each waits for all others.

    Args:
        ours: what this process says: anything that JSON holds.
        combination: from what each process says, in order, to the answer, which JSON holds too. The first process
            calls it.

    Raises:
        ProcessLost: another process has ended, or did not answer within an hour.
    """
    if not is_connected():
        return combination([ours])
    number, (client, process, count) = next(_rounds), _membership()
    place = f"{_PLACE}/{number}"
    try:
        if process:
            client.key_value_set(f"{place}/{process}", json.dumps(ours))
            return json.loads(_read(f"{place}/answer", 0))
        said = [json.loads(_read(f"{place}/{other}", other)) for other in range(1, count)]
        answer = json.dumps(combination([ours, *said]))
        client.key_value_set(f"{place}/answer", answer)
        if number:  # everybody has read the answer before this one
            client.key_value_delete(f"{_PLACE}/{number - 1}/")
    except jax.errors.JaxRuntimeError as error:
        raise _lost(f"another process of this run is gone ({str(error).splitlines()[0]:.200})") from error
    return json.loads(answer)


def meet() -> None:
    """Waits until every process is here.

    Raises:
        ProcessLost: another process has ended, or did not arrive within an hour.
    """
    combine(None, lambda said: None)


def leave(seconds: float) -> None:
    """Tells the others that this process ends now; the first process waits that long for the others to say so too.

    The service ends with the first process, and JAX aborts a process that has lost the service.
    """
    client, process, count = _membership()
    deadline = time.monotonic() + seconds
    try:
        client.key_value_set(f"{_LEFT}/{process}", "")
        while not process and len(_gone()) < count and time.monotonic() < deadline:
            time.sleep(0.1)
        if not process:
            time.sleep(_SECONDS_TO_EXIT)  # they have said so, and are about to exit
    except jax.errors.JaxRuntimeError:
        pass  # the service is gone already


def _membership() -> tuple[Any, int, int]:
    """The service's client, the index of this process, and the number of processes."""
    state = distributed.global_state
    return state.client, state.process_id, state.num_processes


def _read(key: str, author: int) -> str:
    (client, _, _), deadline = _membership(), time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        gone = _gone()  # before the key: a process writes what it says before it ends
        try:
            return client.blocking_key_value_get(key, int(1000 * _SECONDS_OF_ONE_LOOK))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        if gone:
            raise _lost(f"{_names(gone)} of this run ended early")
    raise _lost(f"timed out after {WAIT_SECONDS / 60:.0f} minutes of waiting for process {author}")


def _gone() -> set[int]:
    client, _, _ = _membership()
    return {int(key.rpartition("/")[2]) for key, _ in client.key_value_dir_get(f"{_LEFT}/")}


def _names(processes: Iterable[int]) -> str:
    return " and ".join(f"process {process}" for process in sorted(processes))


def _lost(reason: str) -> ProcessLost:
    return ProcessLost(f"{reason}; rerun the same command on all hosts to resume from the last checkpoint")
