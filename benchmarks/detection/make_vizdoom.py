"""Frames of random play in ViZDoom: unlabeled ones, and two splits with boxes and instance masks in COCO's format.

    ENVIRONMENT/bin/python -m benchmarks.detection.make_vizdoom DIRECTORY --unlabeled=6000 --train=1500 --val=500

Every fourth level belongs to `val`, so no place there is in another split. The frames of `unlabeled` and `train` are of
the same levels, and of different episodes. The game renders without a window, with the levels and the textures of
Freedoom that the package brings. Equal arguments give equal pixels: `counts.json` has their hash.
"""

import argparse
import contextlib
import hashlib
import json
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.detection.coco import Frame, count_classes, to_coco

# Class -> names of the game's objects. Anything else, such as the player's own BulletPuff, is background.
CLASSES = {
    "zombieman": ("Zombieman",),
    "shotgun_guy": ("ShotgunGuy",),
    "imp": ("DoomImp",),
    "demon": ("Demon",),
    "cacodemon": ("Cacodemon",),
    "body": ("DeadMarine", "DeadZombieMan", "DeadZombieman", "DeadShotgunGuy", "DeadDoomImp", "GibbedMarine"),
    "medikit": ("Medikit",),
    "stimpack": ("Stimpack",),
    "bonus": ("HealthBonus", "ArmorBonus"),
    "bullets": ("Clip", "ClipBox"),
    "shells": ("Shell", "ShellBox"),
    "shotgun": ("Shotgun", "SuperShotgun"),
    "barrel": ("ExplosiveBarrel", "BurningBarrel"),
    "tree": ("TorchTree", "BigTree"),
    "column": (
        "Column",
        "TechPillar",
        "ShortRedColumn",
        "TallGreenColumn",
        "Stalagtite",  # codespell:ignore stalagtite
    ),
}
_CLASS_OF = {name: class_name for class_name, names in CLASSES.items() for name in names}
MIN_PIXELS = 24  # visible pixels of an object

_SCENARIOS = (
    *("basic", "basic_notifications", "deadly_corridor", "deathmatch", "defend_the_center", "defend_the_line"),
    *("health_gathering", "health_gathering_supreme", "oblige", "predict_position", "rocket_basic", "take_cover"),
)
SPLITS = ("unlabeled", "train", "val")
_FRAMES_OF_EPISODE = 20
_TICS_BETWEEN_FRAMES = 10  # of 35 per second
# Chance of a button in a random action; an action is held for 1 to 4 frames.
_CHANCES = {"MOVE_FORWARD": 0.8, "MOVE_BACKWARD": 0.1, "USE": 0.2, "ATTACK": 0.2}
_CHANCE = 0.3


class Level(NamedTuple):
    """A scenario of the package, and the map in it; None: the scenario's own."""

    scenario: str
    map_name: str | None = None


def levels_of(split: str) -> list[Level]:
    """The levels of a split, in order."""
    levels = [Level(name) for name in _SCENARIOS]
    levels += [Level("freedoom2", f"map{number:02}") for number in range(1, 33)]
    levels += [Level("freedoom1", f"E{episode}M{number}") for episode in range(1, 5) for number in range(1, 10)]
    is_val = split == "val"
    return [level for index, level in enumerate(levels) if (index % 4 == 1) == is_val]


def shares(frames: int, levels: int) -> list[int]:
    """The number of frames of each level, as equal as can be."""
    return [frames // levels + (index < frames % levels) for index in range(levels)]


def play(level: Level, seed: int) -> Iterator[tuple[Any, Any, list[Any]]]:
    """Yields pixels, the buffer of labels and the labels, frame by frame, episode by episode, without end."""
    import vizdoom

    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path) / f"{level.scenario}.cfg"))
    game.set_window_visible(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_labels_buffer_enabled(True)
    game.set_audio_buffer_enabled(False)
    game.set_sound_enabled(False)
    for render in (game.set_render_hud, game.set_render_weapon, game.set_render_crosshair):
        render(False)
    if level.map_name is not None:
        game.set_doom_map(level.map_name)
    game.set_seed(seed)
    game.init()
    # Buttons that take a number, and those that select a weapon, stay where they are.
    buttons = [button.name for button in game.get_available_buttons()]
    chances = [0.0 if "DELTA" in name or "SELECT" in name else _CHANCES.get(name, _CHANCE) for name in buttons]
    try:
        for episode in range(10_000):
            choice = random.Random(f"{seed} {episode}")
            game.set_seed(seed + episode)
            game.new_episode()
            action: list[float] = []
            held = 0
            game.make_action([0.0] * len(buttons), choice.randint(1, 35))
            for _ in range(_FRAMES_OF_EPISODE):
                if held == 0:
                    action, held = [float(choice.random() < chance) for chance in chances], choice.randint(1, 4)
                held -= 1
                game.make_action(action, _TICS_BETWEEN_FRAMES)
                if game.is_episode_finished():
                    break
                state = game.get_state()
                yield state.screen_buffer, state.labels_buffer, state.labels
    finally:
        game.close()


def write_split(directory: Path, split: str, frames: int, seed: int) -> dict[str, Any]:
    """Writes the images of a split and, if it is a labeled one, its JSON file; returns counts and a hash."""
    from PIL import Image

    folder = directory / split
    folder.mkdir(parents=True)
    levels = levels_of(split)
    digest, found, seen = hashlib.sha256(), [], set()
    for index, (level, share) in enumerate(zip(levels, shares(frames, len(levels)), strict=True)):
        if share == 0:
            continue
        first_seed = 10**8 * seed + 10**7 * (1 + SPLITS.index(split)) + 10**5 * index
        written = 0
        for tried, (pixels, buffer, labels) in enumerate(play(level, first_seed)):
            if written == share or tried == 4 * share:
                break
            fingerprint = hashlib.sha256(pixels.tobytes()).digest()
            if fingerprint in seen:  # the player stands before a wall
                continue
            seen.add(fingerprint)
            name = "_".join(filter(None, (*level, f"{written:04}"))) + ".png"
            Image.fromarray(pixels).save(folder / name)
            digest.update(pixels.tobytes())
            digest.update(buffer.tobytes())
            objects = [
                (_CLASS_OF[label.object_name], buffer == label.value)
                for label in labels
                if label.object_name in _CLASS_OF
            ]
            found.append(Frame(name, *pixels.shape[:2], objects))
            written += 1
    counts: dict[str, Any] = {"images": len(found), "sha256": digest.hexdigest()}
    if split != "unlabeled":
        dataset = to_coco(found, list(CLASSES), min_pixels=MIN_PIXELS)
        (directory / f"{split}.json").write_text(json.dumps(dataset))
        counts["instances"] = count_classes(dataset)
    return counts


def make(directory: Path, frames: dict[str, int], seed: int) -> dict[str, Any]:
    """Writes the dataset unless it is there; returns the content of its `counts.json`, the last file written.

    Raises:
        ValueError: if the directory holds the dataset of other arguments.
    """
    import vizdoom

    arguments = {"frames": frames, "seed": seed, "vizdoom": vizdoom.__version__}
    file = directory / "counts.json"
    if file.exists():
        content: dict[str, Any] = json.loads(file.read_text())
        if content["arguments"] != arguments:
            raise ValueError(f"directory must be new or hold the dataset of {arguments}; got {content['arguments']}")
        return content
    content = {"arguments": arguments}
    directory = directory.absolute()
    # The game leaves files of its own where it runs.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        for split in SPLITS:
            shutil.rmtree(directory / split, ignore_errors=True)  # of an interrupted attempt
            content[split] = write_split(directory, split, frames[split], seed)
            print(f"{split}: {content[split]['images']} images", flush=True)
    (directory / file.name).write_text(json.dumps(content, indent=1) + "\n")
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    for split in SPLITS:
        parser.add_argument(f"--{split}", type=int, required=True, help="number of frames")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))  # closes the game, which is a process of its own
    make(arguments.directory, {split: getattr(arguments, split) for split in SPLITS}, arguments.seed)


if __name__ == "__main__":
    main()
