"""Opening a folder of large photos: the memory it takes, and that each is decoded once."""

import os
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

SCRIPT = """
import re, sys
from vicreg_jax.data import open_collection
opened = open_collection("image_folder", manual_dir=sys.argv[1])
assert len(opened.splits["train"]) + len(opened.splits["test"]) == 64 and not opened.notes, opened.notes
# Not `ru_maxrss`, which starts from that of the process that started this one.
status = open("/proc/self/status").read()
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]))
"""


@pytest.mark.slow
def test_64_webp_photos_of_4096_pixels_open_in_a_gigabyte(tmp_path):
    coarse = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    PIL.Image.fromarray(coarse).resize((4096, 4096)).save(tmp_path / "0.webp", quality=60, method=0)
    for index in range(1, 64):
        os.link(tmp_path / "0.webp", tmp_path / f"{index}.webp")
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert int(result.stdout) < 2**30, result.stdout
