"""Every import of the package is one that the table of the architecture page allows."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vicreg_jax"
PAGE = ROOT / "docs/contributing/architecture.md"
HEAVY = {"tensorflow_datasets", "grain", "orbax", "matplotlib", "sklearn"}
LIGHT_ROOMS = ("losses", "augment", "models", "optim", "methods")
FILES = sorted(PACKAGE.rglob("*.py"))


def allowed():
    """By room, what it may import: rooms, or single files of one as `room.file`."""
    rows = re.findall(r"^\| `(\w+)` \| .* \|(.*)\|$", PAGE.read_text(), flags=re.MULTILINE)
    rooms = [name for name, _ in rows]
    return {name: {*re.findall(r"`([\w.]+)`", cell), *(rooms if "every room" in cell else ())} for name, cell in rows}


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path, statements):
    """The dotted modules that these statements import."""
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            whole_package = node.module == "vicreg_jax"
            yield from (f"vicreg_jax.{alias.name}" for alias in node.names) if whole_package else (node.module,)


def test_table_has_every_room():
    found = {room_of(path) for path in FILES} - {"__init__"}
    assert set(allowed()) == found
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert len(loose) <= 3, f"modules beside the rooms: {loose}"


@pytest.mark.parametrize("room", sorted(allowed()))
def test_imports_are_in_the_table(room):
    may_import = allowed()[room] | {room, "__version__"}
    for path in FILES:
        if room_of(path) != room:
            continue
        for name in imports(path, ast.walk(ast.parse(path.read_text()))):
            package, _, rest = name.partition(".")
            if package == "vicreg_jax":
                parts = rest.split(".")
                assert may_import & {parts[0], ".".join(parts[:2])}, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_light_rooms_never_import_heavy_packages(room):
    for path in (PACKAGE / room).glob("*.py"):
        names = imports(path, ast.walk(ast.parse(path.read_text())))
        assert not {name.partition(".")[0] for name in names} & HEAVY, path.relative_to(ROOT)


def test_heavy_packages_are_imported_where_they_are_used():
    rooms = [room for room in allowed() if room not in ("training", "tasks", "encoder", "cli")]
    program = f"import sys, {', '.join(f'vicreg_jax.{room}' for room in rooms)}\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(result.stdout.split()) & HEAVY
