#!/usr/bin/env bash
# Collects what benchmarks.gpu_day needs on a machine without a network, in `.offline/`: wheels for CPython 3.12 on
# x86-64 Linux, and Fashion-MNIST.
#
#     benchmarks/offline/collect.sh [DIRECTORY OF FASHION-MNIST'S FOUR FILES]
#
# Without a directory, Fashion-MNIST comes from Debian's package.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$PWD/.offline
images=${1:-$target/debian/usr/share/datasets/fashion-mnist}
packages=(array_record dm-tree docstring-parser googleapis-common-protos grain immutabledict importlib_resources
    ml_collections simple-parsing tensorboardX tensorflow-datasets tensorflow-metadata termcolor toml)
unbuilt=(portpicker promise) # no wheel on the index
platforms=()
for version in 2_28 2_27 2_24 2_17 2_12; do platforms+=(--platform "manylinux_${version}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64)

mkdir -p "$target/wheels" "$target/fashion-mnist"
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --dest "$target/wheels" "${packages[@]}"
python3 -m pip wheel --quiet --no-deps --wheel-dir "$target/wheels" "${unbuilt[@]}"
if [ $# -eq 0 ]; then
    (cd "$target" && apt-get download --quiet dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb debian)
fi
for part in train t10k; do
    cp "$images/$part-images-idx3-ubyte.gz" "$images/$part-labels-idx1-ubyte.gz" "$target/fashion-mnist/"
done
rm -rf "$target"/debian "$target"/dataset-fashion-mnist_*.deb
du -sh "$target"
