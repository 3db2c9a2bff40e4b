"""Whether what a step made of a bad file is sound.

A cube is sound if it can be read and has all extensions and all DQ flags of the cube it was made from; if every voxel
that was changed is one that a correction, by the extension it leaves, says it has changed, and by as much as it says
(flat, PSF, spikes; an estimate of a cosmic ray's pixel is flagged as one); if voxels that were made bad are NaN and
flagged, and changed ones have a value with an error; and if new sky positions are those of the WCS.
"""

import json
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits

if TYPE_CHECKING:
    from cubes import Cube

RANGES = {"LAT": (-90, 90), "LON": (0, 360), "EMISSION": (0, 180), "RA": (0, 360), "DEC": (-90, 90)}
# Extensions of corrections that may change any voxel.
CORRECTIONS = {"FLAT", "PSF_MODEL_CUBE", "DESAT_TYPE", "FRINGE1D_CORRECTED"}


def unsound(path: Path, bad: Path, source: Path) -> str | None:
    """What is wrong with a product; None if nothing is."""
    from cubes import read_cube
    from flat_files import read_flat

    if not path.exists():
        return unsound_other(path)
    try:
        planes = images_of(path)
        if path.name.endswith("_uncal.fits"):
            return None if planes["SCI"].ndim == 4 else "no raw exposure"
        if path.name.endswith("_crf.fits"):
            return wrong_cube(planes, images_of(source))
        if "SCI" not in planes:
            read_flat(path)
            return None
        cube = read_cube(path)
    except Exception:
        return f"can not be read:\n{traceback.format_exc()}"
    before = images_of(bad)
    for name, (low, high) in RANGES.items():
        plane = planes.get(name, np.zeros(1))
        # What a step only passes on it need not look at.
        passed_on = name in before and np.array_equal(plane, before[name], equal_nan=True)
        if not passed_on and not np.all((plane >= low) & (plane <= high) | np.isnan(plane)):
            return f"{name} out of its range"
    given, made = before.get("RA"), planes.get("RA")
    moved = given is not None and made is not None and not np.array_equal(given, made, equal_nan=True)
    return (wrong_sky(cube) if moved else None) or wrong_cube(planes, images_of(source))


def unsound_other(path: Path) -> str | None:
    """What is wrong with a product that is no FITS file."""
    for picture in (path.with_suffix(suffix) for suffix in (".png", ".mp4")):
        if picture.exists():
            return None if picture.stat().st_size > 1000 else "an empty picture"
    if path.with_suffix(".json").exists():
        json.loads(path.with_suffix(".json").read_text())
        return None
    if path.with_suffix(".ecsv").exists():
        from visit_pointing import read_visit_pointing

        visit = read_visit_pointing(path.with_suffix(".ecsv"))
        found = (visit.ra_offset, visit.dec_offset, visit.ra_error, visit.dec_error)
        return "an offset that is none" if visit.significant and not np.isfinite(found).all() else None
    return "no product"


def wrong_sky(cube: "Cube") -> str | None:
    """Whether new backplanes of sky positions are not those of the WCS."""
    from astropy.wcs import WCS

    y, x = np.mgrid[: cube.shape[1], : cube.shape[2]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ra, dec = WCS(cube.sci_header, naxis=2).all_pix2world(x, y, 0)
    apart = np.hypot((cube.hdul["RA"].data - ra + 180) % 360 - 180, cube.hdul["DEC"].data - dec)
    return None if np.all(apart < 1e-9) else "RA and DEC are not those of the WCS"


def wrong_cube(made: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> str | None:
    """How a product contradicts the cube that it was made from."""
    from cubes import DQ

    lost = [name for name in given if name not in made]
    if lost:
        return f"lost {', '.join(lost)}"
    sci, err, dq = (made[name] for name in ("SCI", "ERR", "DQ"))
    old_sci, old_err, old_dq = (given[name] for name in ("SCI", "ERR", "DQ"))
    if sci.shape != old_sci.shape:
        return f"has another shape, {sci.shape} instead of {old_sci.shape}"
    merged = "DESAT_TYPE" in made
    if not merged and (old_dq & ~dq).any():
        return "lost flags"
    same = (sci == old_sci) | (np.isnan(sci) & np.isnan(old_sci))
    new_bad = np.isnan(sci) & ~np.isnan(old_sci)
    if not (dq[new_bad] & DQ.DO_NOT_USE).all():
        return "voxels made NaN are not flagged"
    changed = ~same & ~new_bad
    with_error = np.isfinite(old_err) & np.isfinite(old_sci) & (old_err > 0)
    if not merged and not (np.isfinite(sci) & (err > 0))[changed & with_error].all():
        return "changed voxels have no value or no error"
    divisor = divided_by(made, given)
    if divisor is not None:
        known = np.isfinite(divisor) & (divisor > 0) & np.isfinite(sci) & changed
        if not np.allclose(sci[known], (old_sci / np.where(known, divisor, 1))[known], rtol=1e-5):
            return "is not its input divided by what it says"
    touched = ~same | (dq != old_dq)
    new = made.keys() - given.keys()
    if "SPIKES" in new:
        touched &= made["SPIKES"] == 0
    elif new & CORRECTIONS:
        touched[:] = False
    elif sci.ndim == 2:
        touched &= (dq & DQ.FLUX_ESTIMATED) == 0
    return "voxels are touched that no correction speaks of" if touched.any() else None


def divided_by(made: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """What a product says that it was divided by, if anything."""
    for name in ("FLAT", "PSF_MODEL_CUBE"):
        if name in made and name not in given and made[name].shape == made["SCI"].shape:
            return made[name].astype(float)
    return None


def images_of(path: Path) -> dict[str, np.ndarray]:
    """The images in a file, good or bad, by their names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(path, memmap=False) as hdul:
            return {hdu.name: hdu.data for hdu in hdul if hdu.is_image and hdu.data is not None}
