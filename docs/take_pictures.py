"""Takes the pictures of the README and the site: a run's terminal and its report, by headless Chromium.

    python docs/take_pictures.py

It pretrains on the digits in a temporary directory (about two minutes) and writes `docs/_static/terminal.png` and
`docs/_static/report.png`.
"""

import html
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
COMMAND = "python launch.py --config=configs/digits.py --workdir=runs/digits"
CHROMIUM = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
TERMINAL = """<meta charset="utf-8"><style>
body { margin: 0; background: #1e1e2e; color: #cdd6f4; }
pre { margin: 0; padding: 18px 22px; font: 13px/1.35 "DejaVu Sans Mono", monospace; }
b { color: #a6e3a1; font-weight: normal; }
</style><pre><b>$ COMMAND</b>\nOUTPUT</pre>"""


def take(page, picture, width, height):
    """Writes a picture of the top of a page, in 64 colors and at most 200 kB."""
    with tempfile.TemporaryDirectory() as profile:
        options = [f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--screenshot={picture}"]
        subprocess.run([*CHROMIUM, *options, page.as_uri()], check=True, capture_output=True)
    Image.open(picture).convert("RGB").quantize(64).save(picture, optimize=True)
    assert picture.stat().st_size <= 200_000, picture


def main():
    """Runs the command, and takes both pictures."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        workdir = directory / "runs/digits"
        command = [
            sys.executable,
            str(ROOT / "launch.py"),
            f"--config={ROOT}/configs/digits.py",
            "--workdir=runs/digits",
        ]
        environment = os.environ | {"COLUMNS": "118", "JAX_PLATFORMS": "cpu"}
        result = subprocess.run(command, cwd=directory, env=environment, check=True, capture_output=True, text=True)
        lines = result.stdout.splitlines()
        # The first and the last logged steps stand for all.
        steps = [number for number, line in enumerate(lines) if line.startswith("step ")]
        lines = [*lines[: steps[3]], "...", *lines[steps[-2] :]]
        terminal = directory / "terminal.html"
        terminal.write_text(TERMINAL.replace("COMMAND", COMMAND).replace("OUTPUT", html.escape("\n".join(lines))))
        take(terminal, ROOT / "docs/_static/terminal.png", 1000, 18 * (len(lines) + 1) + 36)
        take(workdir / "report.html", ROOT / "docs/_static/report.png", 1000, 890)


if __name__ == "__main__":
    main()
