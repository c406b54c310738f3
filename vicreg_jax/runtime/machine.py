"""What a run needs from its machine, checked before anything is compiled, and settings that it ignores there."""

import os
import resource
import threading

import jax

from vicreg_jax.runtime.coordination import is_connected
from vicreg_jax.runtime.errors import InputError, ProcessLost, first_line

# Below these the compiler does not fail: it waits forever for a thread or for memory that it never gets.
MIN_ADDRESS_SPACE = 2.5 * 2**30
MIN_THREADS = 56 + 4 * (os.cpu_count() or 1)


def pin_numerics() -> None:
    """A run is a function of its config: these variables of the environment do not change its numbers."""
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_default_prng_impl", "threefry2x32")
    jax.config.update("jax_threefry_partitionable", True)


def check_limits() -> None:
    """Refuses a machine whose limits are too low for a compiler.

    Raises:
        InputError: naming the limit.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_SPACE:
        raise InputError(
            f"ulimit -v must be at least {MIN_ADDRESS_SPACE / 2**10:.0f} KiB of address space, or unlimited; got "
            f"{limit // 2**10}"
        )
    if (started := _threads_that_start(MIN_THREADS)) < MIN_THREADS:
        raise InputError(
            f"ulimit -u must leave room for {MIN_THREADS} more threads of this user; got room for {started}"
        )


def check_devices() -> None:
    """Finds the devices.

    Raises:
        InputError: there are none of the platform that JAX_PLATFORMS names.
        ProcessLost: another process did not arrive in time.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        said = first_line(error)
        if is_connected() and ("DEADLINE_EXCEEDED" in said or "UNAVAILABLE" in said):
            raise ProcessLost(f"timed out waiting for the devices of the other processes ({said})") from error
        platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
        raise InputError(f"JAX_PLATFORMS must name platforms of this machine; got {platforms!r} ({said})") from error


def _threads_that_start(count: int) -> int:
    """How many of `count` threads can run at once."""
    end = threading.Event()
    threads: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError:  # can't start new thread
        pass
    finally:
        end.set()
        for thread in threads:
            thread.join()
    return len(threads)
