"""Prepares a dataset, once: a tfds dataset in a format with random access, or any dataset as a store.

    python -m vicreg_jax.data.prepare cifar10 --data_dir=DIR [--manual_dir=DIR]
    python -m vicreg_jax.data.prepare image_folder --manual_dir=PHOTOS --store=STORE --side=384 [--encoding=raw]

Training prepares a tfds dataset on demand, which needs TensorFlow. To train on a machine without a network, prepare the
dataset on another one. A store holds every image decoded, at the size that training needs (`data.name=store`).
"""

import argparse
import contextlib
import importlib.util
import logging
import os
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging as absl_logging

from vicreg_jax.data.collection import UnreadableImagesError
from vicreg_jax.data.load import open_collection
from vicreg_jax.data.prepare_store import ProgressLine, StoreFormat, write_store
from vicreg_jax.data.tfds_builder import find_builder

_logger = logging.getLogger(__name__)


def prepare_here(builder: tfds.core.DatasetBuilder, manual_dir: str | None = None) -> None:
    """Prepares a dataset in this process, which usually imports TensorFlow.

    tfds writes to a temporary directory and renames it: if several processes prepare a dataset at once, one of them
    wins, and the others use its copy.

    Raises:
        ValueError: tfds cannot prepare the dataset; the message begins with the argument to change.
    """
    _logger.info("preparing %s in %s", builder.info.full_name, builder.data_dir)
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    unreachable = _unreachable_hosts(builder)
    if unreachable:
        raise ValueError(_cannot_download(builder, f"no network: {', '.join(unreachable)} cannot be resolved"))
    try:
        builder.download_and_prepare(download_config=config, file_format="array_record")
    except Exception as error:  # downloads, archives, disks and builders fail in all kinds of ways
        if builder.is_prepared():
            return  # by another process, meanwhile
        raise _explained(builder, error) from error


def prepare_in_subprocess(name: str, *, data_dir: str | None, manual_dir: str | None) -> None:
    """Prepares a dataset in a separate process, so that this one never loads TensorFlow.

    Raises:
        ValueError: TensorFlow is not installed, or as `prepare_here`.
    """
    _require_tensorflow(name)
    options = [f"--data_dir={data_dir}"] * (data_dir is not None)
    options += [f"--manual_dir={manual_dir}"] * (manual_dir is not None)
    package_root = str(Path(__file__).parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "CUDA_VISIBLE_DEVICES": "-1",  # TensorFlow would reserve all memory of the GPUs
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    # It inherits standard error, for the progress bars of tfds. Its standard output is the message of a ValueError.
    result = subprocess.run(
        [sys.executable, "-m", "vicreg_jax.data.prepare", name, *options],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        check=False,
    )
    if result.returncode:
        lines = result.stdout.strip().splitlines()
        raise ValueError(
            lines[-1]
            if lines
            else f"name must be a dataset that can be prepared here; got {name!r}, whose preparation failed"
        )


def _require_tensorflow(name: str) -> None:
    """Fails at once, instead of after a download, if TensorFlow is not installed."""
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            f"name must be a prepared dataset, or one that can be prepared here: preparing {name!r} requires "
            f"TensorFlow (pip install 'vicreg_jax[prepare]'); got {name!r}"
        )


def _unreachable_hosts(builder: tfds.core.DatasetBuilder) -> list[str]:
    """The dataset's download servers, if none of them has an address: tfds would retry for minutes."""
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS or urllib.request.getproxies():
        return []
    hosts = {urllib.parse.urlparse(url).hostname for url in builder.url_infos or ()}
    for host in hosts:
        with contextlib.suppress(OSError):
            socket.getaddrinfo(host, None)
            return []
    return sorted(map(str, hosts))


def _cannot_download(builder: tfds.core.DatasetBuilder, reason: str) -> str:
    return (
        f"name must be a dataset that can be downloaded here; got {builder.name!r} ({reason}). "
        f"For IDX files, set manual_dir to their directory; otherwise prepare it elsewhere "
        f"(python -m vicreg_jax.data.prepare {builder.name} --data_dir=DIR) and set data_dir"
    )


def _explained(builder: tfds.core.DatasetBuilder, error: Exception) -> ValueError:
    """A one-line error; tfds wraps errors in messages that print whole images."""
    import requests

    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    for part in chain:
        reason = f"{type(part).__name__}: {part}".splitlines()[0]
        if isinstance(part, requests.RequestException | tfds.download.DownloadError):
            return ValueError(_cannot_download(builder, reason))
        if isinstance(part, ImportError) and part.name:
            return ValueError(
                f"name must be a prepared dataset, or one that can be prepared here: preparing {builder.name!r} "
                f"requires the package {part.name} (pip install {part.name}); got {builder.name!r}"
            )
        if isinstance(part, AssertionError) and "manual" in str(part).lower():
            instructions = " ".join(str(builder.MANUAL_DOWNLOAD_INSTRUCTIONS).split())
            return ValueError(f"manual_dir must hold the files of {builder.name!r}: {instructions}")
    if isinstance(chain[-1], OSError):
        return ValueError(f"data_dir must be writable; got {str(builder.data_dir)!r} ({reason})")
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return ValueError(f"manual_dir must hold files from which {builder.name!r} can be prepared ({reason})")
    return ValueError(f"name must be a dataset that can be prepared here; got {builder.name!r} ({reason})")


def _prepare_store(arguments: argparse.Namespace) -> None:
    if arguments.side is None:
        raise ValueError("side must be the side of the stored canvases in pixels; got None")
    store_format = StoreFormat(arguments.side, arguments.encoding)
    collection = open_collection(
        arguments.name,
        data_dir=arguments.data_dir,
        manual_dir=arguments.manual_dir,
        labels_file=arguments.labels_file,
    )
    try:
        written = write_store(
            collection, arguments.store, store_format, threads=arguments.threads, report=ProgressLine()
        )
    except UnreadableImagesError as error:  # it says so in one line
        raise ValueError(str(error)) from error
    except OSError as error:
        raise ValueError(
            f"store must be a directory that can be written whole; got {arguments.store!r} "
            f"({error.strerror or error}); rerun the same command to resume"
        ) from error
    print(
        f"{arguments.store}: {written['images']:,} images, {written['unreadable']:,} of them unreadable, "
        f"{written['bytes'] / 1e9:.1f} GB"
    )
    print(f"train with --config.data.name=store --config.data.manual_dir={arguments.store}")


def main() -> int:
    """Prepares the dataset named on the command line; on bad input prints one line and returns 2."""
    parser = argparse.ArgumentParser(prog="python -m vicreg_jax.data.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="`data.name`, such as cifar10; only a store needs digits, IDX files or folders")
    parser.add_argument("--data_dir", help="where to keep the prepared dataset")
    parser.add_argument("--manual_dir", help="your files, or archives that tfds cannot download")
    parser.add_argument("--labels_file", help="labels of a folder of images")
    parser.add_argument("--store", help="directory of the store to write; rerun the same command to resume")
    parser.add_argument("--side", type=int, help="of the stored canvases in pixels: `data.decode_size` of the training")
    parser.add_argument("--encoding", default="jpeg", help="of a store: jpeg (quality 95), or raw, larger and faster")
    parser.add_argument("--threads", type=int, help="that write a store; default: one per core")
    arguments = parser.parse_args()
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            if arguments.store is not None:
                _prepare_store(arguments)
                return 0
            builder = find_builder(arguments.name, data_dir=arguments.data_dir, manual_dir=arguments.manual_dir)
            if not builder.is_prepared():
                _require_tensorflow(arguments.name)
                prepare_here(builder, arguments.manual_dir)
    except ValueError as error:
        print(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
