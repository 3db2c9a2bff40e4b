"""Two reductions of the same observation side by side, cube by cube: to judge a new version of `jwst` or of CRDS.

In: two data roots. Out: for each cube that both have, how many voxels are NaN in one of them only, the median ratio of
their fluxes, by how much they are shifted on the sky, and which header keywords differ.

The shift has two parts: that of the sky position that the headers give the middle of the cube, and that of the scene in
the spaxels. The latter follows from least squares of B / f = A - (s . grad) A for the images averaged over wavelength,
with f their ratio and s the shift; it is right for shifts well below a spaxel, and those are what matters here.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.coordinates import angular_separation
from astropy.io import fits

from cubes import Cube, celestial_wcs, read_cube
from errors import DataRootError, FileFormatError

PATTERN = "*_s3d*.fits"
# Keywords that tell when, where and how often a file was written, not what is in it.
UNIMPORTANT = {"DATE", "FILENAME", "ASNTABLE", "CHECKSUM", "DATASUM", "EXTEND", "COMMENT", "HISTORY", ""}
# Voxels fainter than this many errors say nothing about the ratio.
LEAST_SN = 5.0
MAS = 3.6e6


@dataclass(frozen=True)
class Tolerances:
    """By how much two cubes may differ: see `Difference`. With `headers`, no keyword may."""

    nan: float = 1e-4
    flux: float = 1e-3
    position: float = 5.0
    headers: bool = False


@dataclass(frozen=True)
class Difference:
    """How two cubes differ.

    Attributes
    ----------
    nan_a, nan_b
        Share of NaN in SCI.
    nan_once
        Share of voxels that are NaN in one of them only.
    ratio, scatter
        Median of B / A where both may be used and A has S/N above 5, and its robust standard deviation; NaN where
        there is no such voxel.
    position
        Shift on the sky from A to B [milliarcsec]; NaN where it can not be told.
    keywords
        Those that differ or that only one of them has, as 'EXTENSION KEYWORD'.
    """

    nan_a: float
    nan_b: float
    nan_once: float
    ratio: float
    scatter: float
    position: float
    keywords: tuple[str, ...]

    def exceeds(self, tolerances: Tolerances) -> list[str]:
        """What is beyond the tolerances: some of 'NaN', 'flux', 'position', 'headers'."""
        beyond = {
            "NaN": self.nan_once > tolerances.nan,
            "flux": abs(self.ratio - 1) > tolerances.flux,
            "position": self.position > tolerances.position,
            "headers": tolerances.headers and bool(self.keywords),
        }
        return [name for name, is_beyond in beyond.items() if is_beyond]


def compare_cubes(path_a: str | Path, path_b: str | Path) -> Difference:
    """Compare two cubes.

    Raises
    ------
    FileFormatError
        If one can not be read, or their shapes differ.
    """
    a, b = read_cube(path_a), read_cube(path_b)
    if a.shape != b.shape:
        raise FileFormatError(f"{path_b} has {b.shape} voxels and {path_a} {a.shape}: they can not be compared.")
    nan_a, nan_b = np.isnan(a.sci), np.isnan(b.sci)
    both = a.good & b.good
    bright = both & (a.sci > LEAST_SN * a.err)
    ratio = b.sci[bright].astype(float) / a.sci[bright]
    median = float(np.median(ratio)) if ratio.size else np.nan
    scatter = 1.4826 * float(np.median(np.abs(ratio - median))) if ratio.size else np.nan
    return Difference(
        float(nan_a.mean()),
        float(nan_b.mean()),
        float((nan_a != nan_b).mean()),
        median,
        scatter,
        _shift_on_sky(a, b, both),
        tuple(_different_keywords(a.hdul, b.hdul)),
    )


def compare_roots(root_a: Path, root_b: Path, tolerances: Tolerances) -> tuple[str, bool]:
    """Compare the cubes that two roots have under the same names.

    Returns
    -------
    str
        A line for each cube, and the keywords that differ with the number of cubes in which they do.
    bool
        Whether all are there twice and within the tolerances.

    Raises
    ------
    DataRootError
        If a root has no cubes.
    """
    names = [_cube_names(root) for root in (root_a, root_b)]
    lines, alike = [], names[0] == names[1]
    counts: Counter[str] = Counter()
    for name in sorted(names[0] & names[1]):
        try:
            difference = compare_cubes(root_a / name, root_b / name)
        except FileFormatError as error:
            lines.append(f"{name}: {error}")
            alike = False
            continue
        beyond = difference.exceeds(tolerances)
        alike = alike and not beyond
        lines.append(
            f"{name}: NaN {difference.nan_a:.4%} and {difference.nan_b:.4%} ({difference.nan_once:.4%} in one only), "
            f"flux ratio {difference.ratio:.6f} +- {difference.scatter:.6f}, shift {difference.position:.2f} mas"
            + (f"  <- {', '.join(beyond)}" if beyond else "")
        )
        counts.update(difference.keywords)
    for own, other, root in ((names[0], names[1], root_a), (names[1], names[0], root_b)):
        lines += [f"{name}: only in {root}" for name in sorted(own - other)]
    if counts:
        lines.append("header keywords that differ (in how many cubes):")
        lines += [f"  {keyword} ({count})" for keyword, count in counts.most_common()]
    return "\n".join(lines), alike


def _cube_names(root: Path) -> set[str]:
    names = {str(path.relative_to(root)) for path in root.glob(f"stage[0-9]*/**/{PATTERN}")}
    if not names:
        raise DataRootError(f"{root} has no cubes (stage*/**/{PATTERN}): reduce it first.")
    return names


def _shift_on_sky(a: Cube, b: Cube, both: np.ndarray) -> float:
    x, y = (a.shape[2] - 1) / 2, (a.shape[1] - 1) / 2
    dx, dy = _shift_in_spaxels(a, b, both)
    # What A has in its middle is shifted by that in B.
    start = np.deg2rad(celestial_wcs(a.sci_header).all_pix2world(x, y, 0))
    end = np.deg2rad(celestial_wcs(b.sci_header).all_pix2world(x + dx, y + dy, 0))
    return float(np.rad2deg(angular_separation(*start, *end)) * MAS)


def _shift_in_spaxels(a: Cube, b: Cube, both: np.ndarray) -> tuple[float, float]:
    """By how much (x, y) the scene of B lies further than that of A [spaxels]; NaN for an image without structure."""
    # Spaxels that are good at most wavelengths; the same voxels of both.
    used = both.sum(axis=0)
    enough = used > 0.5 * used.max() if used.any() else np.zeros(used.shape, bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        image_a, image_b = (np.sum(cube.sci, axis=0, where=both, dtype=float) / used for cube in (a, b))
    if enough.sum() < 9:
        return np.nan, np.nan
    slope_y, slope_x = np.gradient(np.where(enough, image_a, np.nan))
    usable = enough & np.isfinite(slope_x) & np.isfinite(slope_y)
    if usable.sum() < 9:
        return np.nan, np.nan
    # B = f (A - s . grad A): linear in f and f s.
    design = np.column_stack([image_a[usable], -slope_x[usable], -slope_y[usable]])
    (ratio, x, y), _, rank, _ = np.linalg.lstsq(design, image_b[usable], rcond=1e-9)
    return (x / ratio, y / ratio) if rank == 3 and ratio != 0 else (np.nan, np.nan)


def _different_keywords(a: fits.HDUList, b: fits.HDUList) -> Iterator[str]:
    for index, name in ((0, "PRIMARY"), ("SCI", "SCI")):
        header_a, header_b = a[index].header, b[index].header
        for keyword in sorted({*header_a, *header_b} - UNIMPORTANT):
            if header_a.get(keyword) != header_b.get(keyword):
                yield f"{name} {keyword}"
