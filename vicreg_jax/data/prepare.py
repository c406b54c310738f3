"""Prepares a tfds data set, once, in the format that is read by index.

Training does it on demand; where it needs a network or disk that the training machine lacks, do it by hand:

    python -m vicreg_jax.data.prepare cifar10 --data_dir=DIR [--manual_dir=DIR]
"""

import argparse
import contextlib
import io
import logging
import os
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging as absl_logging

from vicreg_jax.runtime.errors import InputError

_logger = logging.getLogger(__name__)


def prepare_here(builder: tfds.core.DatasetBuilder, manual_dir: str | None = None) -> None:
    """Prepares the data set in this process, which for all but our own builders imports TensorFlow.

    tfds writes to a temporary directory and renames it, so of several processes that prepare at once one
    wins, and the others use its copy.

    Raises:
      InputError: where it cannot be, naming the field that is to be changed.
    """
    _logger.info("preparing %s in %s", builder.info.full_name, builder.data_dir)
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    try:
        _check_network(builder)
        builder.download_and_prepare(download_config=config, file_format="array_record")
    except InputError:
        raise
    except Exception as error:  # downloads, archives, disks and builders fail in all kinds of ways
        if builder.is_prepared():
            return  # by another process, meanwhile
        raise _explained(builder, error) from error


def prepare_in_subprocess(name: str, *, data_dir: str | None, manual_dir: str | None) -> None:
    """Prepares the data set in a process of its own, so that TensorFlow is never loaded into this one.

    Raises:
      InputError: as `prepare_here`.
    """
    options = [f"--data_dir={data_dir}"] * (data_dir is not None)
    options += [f"--manual_dir={manual_dir}"] * (manual_dir is not None)
    package_root = str(Path(__file__).parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "CUDA_VISIBLE_DEVICES": "-1",  # TensorFlow would take all of their memory
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    # Its standard error is ours, for tfds's progress bars; its standard output is the line of an InputError.
    result = subprocess.run(
        [sys.executable, "-m", "vicreg_jax.data.prepare", name, *options],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        check=False,
    )
    if result.returncode:
        lines = result.stdout.strip().splitlines()
        raise InputError(lines[-1] if lines else f"config.data.name: preparing {name!r} failed")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps tfds's notices and progress bars off the terminal; errors are raised all the same."""
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.FATAL)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(verbosity)


def _check_network(builder: tfds.core.DatasetBuilder) -> None:
    """Fails at once where no server of the data set has an address: tfds would try for minutes."""
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return  # the files are the user's
    hosts = {urllib.parse.urlparse(url).hostname for url in builder.url_infos or ()}
    if not hosts or urllib.request.getproxies():
        return
    for host in hosts:
        with contextlib.suppress(OSError):
            socket.getaddrinfo(host, None)
            return
    raise InputError(_cannot_download(builder, f"no network: {', '.join(sorted(map(str, hosts)))} cannot be resolved"))


def _cannot_download(builder: tfds.core.DatasetBuilder, reason: str) -> str:
    return (
        f"config.data.name: {builder.name!r} cannot be downloaded ({reason}); for a set in MNIST's format "
        f"give its directory of IDX files as config.data.manual_dir, else prepare it elsewhere "
        f"(python -m vicreg_jax.data.prepare {builder.name} --data_dir=DIR) and give config.data.data_dir"
    )


def _explained(builder: tfds.core.DatasetBuilder, error: Exception) -> InputError:
    """What went wrong in one line; tfds wraps errors in messages that show whole images."""
    import requests

    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    for part in chain:
        reason = f"{type(part).__name__}: {part}".splitlines()[0]
        if isinstance(part, requests.RequestException | tfds.download.DownloadError):
            return InputError(_cannot_download(builder, reason))
        if isinstance(part, ImportError) and part.name:
            return InputError(
                f"config.data.name: preparing {builder.name!r} needs the package {part.name} (training "
                f"does not): pip install {part.name}"
            )
        if isinstance(part, AssertionError) and "manual" in str(part).lower():
            return InputError(
                f"config.data.manual_dir: {builder.name!r} must be downloaded by hand: "
                + " ".join(str(builder.MANUAL_DOWNLOAD_INSTRUCTIONS).split())
            )
    if isinstance(chain[-1], OSError):
        return InputError(f"config.data.data_dir: {builder.data_dir} cannot be written ({reason})")
    field = "config.data.manual_dir" if builder.MANUAL_DOWNLOAD_INSTRUCTIONS else "config.data.name"
    return InputError(f"{field}: preparing {builder.name!r} failed ({reason})")


def main() -> int:
    """Prepares the data set that the command line names: 0 once it is there, 2 and one line where not."""
    parser = argparse.ArgumentParser(prog="python -m vicreg_jax.data.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--data_dir")
    parser.add_argument("--manual_dir")
    arguments = parser.parse_args()
    from vicreg_jax.data.tfds_source import find_builder

    logging.getLogger("urllib3").setLevel(logging.ERROR)
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            builder = find_builder(arguments.name, data_dir=arguments.data_dir, manual_dir=arguments.manual_dir)
            if not builder.is_prepared():
                prepare_here(builder, arguments.manual_dir)
    except InputError as error:
        print(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
