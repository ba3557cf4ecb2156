"""The drawings: fetched by package name and version into a cache, rendered from SVG to RGBA pictures.

Nothing fetched is committed. Without a network, bring the packages along: put the unpacked folders (each
with its icons.json) into <cache>/<package>-<version>/ and the build finds them; or bring the rendered
pictures, which `python -m kpop.emoji drawings` leaves in <cache>/rendered-<size>/ (17 MB instead of 150).
"""

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from PIL import Image

from kpop.disk import write_text
from kpop.emoji.world import DRAWING_SETS, THINGS, DrawingSet
from kpop.errors import KpopError


def fetch(drawing_set: DrawingSet, cache: Path) -> Path:
    """Folder of one icon package in `cache`; fetched with `npm pack` when it is not there yet.

    Raises KpopError when npm is missing or the package cannot be had.
    """
    folder = cache / f"{drawing_set.package.split('/')[-1]}-{drawing_set.version}"
    if (folder / "icons.json").is_file():
        return folder
    if shutil.which("npm") is None:
        raise KpopError(
            f"The drawings need npm, which is not installed; install it or put {folder} there by hand."
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        spec = f"{drawing_set.package}@{drawing_set.version}"
        packed = subprocess.run(
            ["npm", "pack", "--silent", spec], cwd=scratch, capture_output=True, text=True
        )
        archives = list(Path(scratch).glob("*.tgz"))
        if packed.returncode or not archives:
            raise KpopError(
                f"Could not fetch {spec}: {packed.stderr.strip().splitlines()[-1:] or 'npm said nothing'}"
            )
        with tarfile.open(archives[0]) as archive:
            archive.extractall(scratch, filter="data")
        (Path(scratch) / "package").rename(folder)
    return folder


def svg_of(icons: dict, name: str) -> str | None:
    """One icon of an `icons.json` as an SVG document, aliases followed; None when the set lacks it."""
    icon, seen = icons["icons"].get(name), set()
    while icon is None and name in icons.get("aliases", {}) and name not in seen:
        seen.add(name)
        name = icons["aliases"][name]["parent"]
        icon = icons["icons"].get(name)
    if icon is None:
        return None
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    left, top = icon.get("left", 0), icon.get("top", 0)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def render(svg: str, size: int) -> Image.Image:
    """An SVG document as an RGBA picture of `size` pixels, cut to what is drawn and centred on a square."""
    import resvg_py

    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))))
    picture = picture.convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox() or (0, 0, size, size))
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square.resize((size, size), Image.Resampling.LANCZOS)


def load_drawings(
    cache: Path, size: int = 160, icons_of: dict[str, str] | None = None
) -> dict[tuple[str, str], Image.Image]:
    """Drawings as {(word, style): RGBA picture of `size` pixels}; rendered once and kept in `cache`.

    `icons_of` is {word: icon name}, by default the world's own objects. Raises KpopError as `fetch` does.
    """
    icons_of = icons_of or {thing.word: thing.icon for thing in THINGS}
    drawings = {}
    for drawing_set in DRAWING_SETS:
        folder = cache / f"rendered-{size}" / f"{drawing_set.style}-{drawing_set.version}"
        paths = {word: folder / f"{icon}.png" for word, icon in icons_of.items()}
        absent = folder / "absent.json"  # icons that this package does not have
        lacking = set(json.loads(absent.read_text())) if absent.is_file() else set()
        if any(not path.is_file() and path.stem not in lacking for path in paths.values()):
            lacking |= _render_all(drawing_set, cache, paths, size)
            write_text(absent, json.dumps(sorted(lacking)) + "\n")
        for word, path in paths.items():
            if path.stem not in lacking:
                drawings[word, drawing_set.style] = Image.open(path).convert("RGBA")
    return drawings


def _render_all(drawing_set: DrawingSet, cache: Path, paths: dict[str, Path], size: int) -> set[str]:
    """Write the picture of every icon; the names of those that the package lacks."""
    icons = json.loads((fetch(drawing_set, cache) / "icons.json").read_text())
    lacking = set()
    for path in paths.values():
        svg = svg_of(icons, path.stem)
        if svg is None:
            lacking.add(path.stem)
        elif not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            render(svg, size).save(part, "PNG")
            os.replace(part, path)
    return lacking
