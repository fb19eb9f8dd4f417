"""Pictures for datasets that share only the class between trials and images: a user's folders, or drawn glyphs."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from zoo.datasets.base import Stimulus
from zoo.errors import UsageError

GLYPHS = 40
"""Drawn pictures per class."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def class_pictures(concepts: Sequence[str], images: Path | None) -> tuple[tuple[Stimulus, ...], str, tuple[str, ...]]:
    """Pictures of classes, where they come from, and sentences for the user.

    They are those of ``images``, one folder per class; without it single characters are drawn, and words have none.
    """
    if images is not None:
        stimuli, report = read_pictures(images, {concept: concept for concept in concepts})
        return stimuli, "pictures given with --images", report
    if any(len(concept) > 1 for concept in concepts):
        why = "no pictures: give a folder with one folder per class as --images to train or score images."
        return (), "none", (why,)
    drawn = draw_glyphs(concepts, n=GLYPHS, seed=0)
    return drawn, f"built-in renderer: {GLYPHS} glyphs per class, DejaVu fonts", ()


def read_pictures(
    folder: Path, folders: Mapping[str, str], *, identity: Callable[[Path], str] | None = None
) -> tuple[tuple[Stimulus, ...], tuple[str, ...]]:
    """Pictures of every concept from ``folder/<folders[concept]>/``, and sentences on what was left out.

    A quarter of each concept's identities (at least one) tests, the rest trains, decided by hashes. Copies of one file
    count once. Pictures are kept as they are and named by their content.

    Args:
        folder: Holds one folder per concept; upper and lower case do not matter.
        folders: Folder name of each concept.
        identity: What a file shows, so that views of one thing stay together; null: every content is its own.

    Raises:
        UsageError: A folder is missing, has fewer than two identities, or a file is no picture.
    """
    if not folder.is_dir():
        raise UsageError(
            f"--images must be a folder with {', '.join(folders.values())} in it, but {folder} is no folder."
        )
    found = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    stimuli: list[Stimulus] = []
    report: list[str] = []
    for concept, name in folders.items():
        if name.lower() not in found:
            raise UsageError(f"every concept needs pictures, but {folder} has no folder {name!r}; add it.")
        files = sorted(path for path in found[name.lower()].iterdir() if path.is_file())
        pictures = {path: path.read_bytes() for path in files if path.suffix.lower() in SUFFIXES}
        stimuli += _assign(concept, pictures, identity)
        if others := len(files) - len(pictures):
            report.append(f"{others} files in {name} are no pictures and were skipped.")
    if copies := len(stimuli) - len({stimulus.stimulus_id.rpartition("-")[2] for stimulus in stimuli}):
        raise UsageError(
            f"a picture must show one concept, but {copies} in {folder} lie in two folders; remove one copy."
        )
    return tuple(stimuli), tuple(report)


def draw_glyphs(concepts: Sequence[str], *, n: int, seed: int, size: int = 64) -> tuple[Stimulus, ...]:
    """White characters on black in varied fonts, sizes, places and tilts; the last quarter of each concept tests.

    Fonts are the DejaVu families that matplotlib ships, so no picture depends on what a machine has installed.

    Args:
        concepts: One character each.
        n: Pictures per concept.
        seed: Decides the variation.
        size: Width and height in pixels.
    """
    fonts = _fonts()
    rng = np.random.default_rng(seed)
    return tuple(
        Stimulus(
            stimulus_id=f"{concept}-{k + 1:02d}",
            concept=concept,
            image=_draw_glyph(concept, fonts[int(rng.integers(len(fonts)))], size, rng),
            role="test" if k >= n - n // 4 else "train",
        )
        for concept in concepts
        for k in range(n)
    )


def _assign(concept: str, pictures: Mapping[Path, bytes], identity: Callable[[Path], str] | None) -> list[Stimulus]:
    shows: dict[str, str] = {}
    contents: dict[str, bytes] = {}
    for path, data in pictures.items():
        require_picture(path, data)
        sha256 = hashlib.sha256(data).hexdigest()
        contents[sha256] = data
        shows[sha256] = hashlib.sha256(identity(path).encode()).hexdigest() if identity else sha256
    identities = sorted(set(shows.values()))
    if len(identities) < 2:
        raise UsageError(
            f"every concept needs two different pictures or more (one trains, one tests), but {concept} has "
            f"{len(identities)}; add some."
        )
    test = identities[: max(1, len(identities) // 4)]
    return [
        Stimulus(f"{concept}-{sha256[:12]}", concept, data, "test" if shows[sha256] in test else "train")
        for sha256, data in sorted(contents.items())
    ]


def require_picture(path: Path, data: bytes) -> None:
    """Refuse bytes that do not decode as a whole picture; the sentence names ``path``."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} must be a picture, but it cannot be read ({error}); replace or remove it.") from error


def _fonts() -> list[Path]:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    styles = ("", "-Bold", "-Oblique", "-BoldOblique")
    return [
        *(folder / f"DejaVu{family}{style}.ttf" for family in ("Sans", "SansMono") for style in styles),
        *(folder / f"DejaVuSerif{style}.ttf" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    ]


def _draw_glyph(text: str, font: Path, size: int, rng: np.random.Generator) -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    height = size * rng.uniform(0.6, 0.85)
    place = size * (0.5 + rng.uniform(-0.06, 0.06, size=2))
    picture = Image.new("L", (size, size), 0)
    pen = ImageFont.truetype(str(font), round(height))
    ImageDraw.Draw(picture).text((place[0], place[1]), text, fill=255, font=pen, anchor="mm")
    file = io.BytesIO()
    picture.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()
