"""Real photographs: a folder of the user's, or those that scikit-image's package brings along."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from transports import Pixels

# What of scikit-image's data is a photograph (the rest are test charts and drawings).
PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png"),
    *("coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png"),
    *("moon.png", "motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg"),
)

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}

# All are held decoded in the camera's memory.
MOST = 64


class NoPhotos(Exception):
    """There is nothing to show; the message says what to do."""


def find_photos() -> list[Path]:
    """The files in the folder that IMAGES names, else scikit-image's photographs."""
    if folder := os.environ.get("IMAGES"):
        directory = Path(folder)
        if not directory.is_dir():
            raise NoPhotos(f"IMAGES={folder}: no such folder")
        found = sorted(path for path in directory.iterdir() if path.suffix.lower() in SUFFIXES)
        if not found:
            raise NoPhotos(f"IMAGES={folder}: no {', '.join(sorted(SUFFIXES))} file in it")
        if len(found) > MOST:
            print(f"IMAGES={folder}: the first {MOST} of {len(found)} pictures", file=sys.stderr)
        return found[:MOST]
    spec = importlib.util.find_spec("skimage")
    roots = list(spec.submodule_search_locations or ()) if spec else []
    found = [Path(root) / "data" / name for root in roots for name in PHOTOGRAPHS]
    found = [path for path in found if path.is_file()]
    if not found:
        raise NoPhotos("no photographs: pip install scikit-image, or set IMAGES=FOLDER")
    return found


def load(paths: list[Path], width: int, height: int) -> list[tuple[str, Pixels]]:
    """The pictures as a camera of this resolution would deliver them; unreadable ones left out."""
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            print(f"{path} left out: {error}", file=sys.stderr)
            continue
        fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC)
        pictures.append((path.name, np.asarray(fitted)))
    if not pictures:
        raise NoPhotos("none of the pictures could be read: set IMAGES=FOLDER to others")
    return pictures
