import signal

import pytest

from vicreg_jax.runtime.preemption import SIGNALS, Preemption


def _listening():
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return [signal.getsignal(number) for number in SIGNALS], wakeup


@pytest.fixture
def listener():
    """A `Preemption`. One that was asked to leave goes on listening, until the process ends or this test does."""
    before = _listening()
    listener = Preemption()
    yield listener
    if listener.received:
        assert _listening() != before
        for number, handler in zip(SIGNALS, before[0], strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(before[1])
        listener._wakeup.close()
        listener._thread.join()
    assert _listening() == before
