"""What the report shows of a cube through the stages: small pictures, numbers, notes.

In: the cubes of one dither and band, one of each stage. Out: a JSON file with, for each stage, two pictures (PNG, a
pixel per spaxel) that share their colours with those of the other stages, counts of voxels, and what the headers tell.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from cube_pointing import OFFSET_KEYS
from cube_summary import correction_notes, robust_range, summed_image
from cubes import DQ, Cube, read_cube
from files import written_whole

# Of the summaries; others are made anew.
FORMAT = 1
COLOUR_MAP = "cividis"
_COLOURS = 255


def summarise_files(paths_in: Sequence[str | Path], path_out: str | Path) -> None:
    """Summarise one cube through its stages.

    Parameters
    ----------
    paths_in
        The cube at each stage, in order.
    path_out
        JSON file to write: that of `summarise_cubes`, with 'format' and 'files' (their last three parts).

    Raises
    ------
    FileFormatError
        If an input is no cube.
    """
    paths = [Path(path) for path in paths_in]
    summary = summarise_cubes([read_cube(path) for path in paths])
    summary |= {"format": FORMAT, "files": ["/".join(path.parts[-3:]) for path in paths]}
    with written_whole(path_out) as temporary:
        temporary.write_text(json.dumps(summary, indent=1), encoding="utf-8")


def summarise_cubes(cubes: Sequence[Cube]) -> dict[str, Any]:
    """Pictures and numbers of one cube at several stages.

    Parameters
    ----------
    cubes
        In the order of the stages, at least one.

    Returns
    -------
    dict
        'observation' (see `observation_facts`); 'corrections' (see `cube_summary.correction_notes`); 'plane' (number
        from 1 and wavelength [um] of the single plane shown); 'stages' (for each a dict: 'mean' and 'single', PNGs in
        base64; 'corrections', how many of them had been made; and `voxel_counts`).
    """
    values = [np.where(cube.good, cube.sci, np.nan) for cube in cubes]
    plane = telling_plane([np.isfinite(sci) for sci in values])
    # Values that are missing at one stage must not make the others of that plane look brighter there.
    reference = values[-1] if len({sci.shape for sci in values}) == 1 else None
    shown = {
        "mean": [summed_image(sci, reference) for sci in values],
        "single": [sci[min(plane, len(sci) - 1)] for sci in values],
    }
    # One stretch for all stages, that of the last: what changes between them is then the data.
    limits = {name: robust_range(images[-1]) for name, images in shown.items()}
    stages = []
    for number, cube in enumerate(cubes):
        pictures = {name: encode_picture(images[number], *limits[name]) for name, images in shown.items()}
        stages.append({**pictures, **voxel_counts(cube), "corrections": len(correction_notes(cube.header))})
    last = cubes[-1]
    return {
        "observation": observation_facts(last),
        "corrections": correction_notes(last.header),
        "plane": {"number": plane + 1, "wavelength": float(last.wavelength[min(plane, last.shape[0] - 1)])},
        "stages": stages,
    }


def telling_plane(valid: Sequence[np.ndarray]) -> int:
    """The plane in which the most voxels were recovered or removed from stage to stage.

    Parameters
    ----------
    valid
        (wavelength, y, x) bool of each stage.

    Returns
    -------
    int
        The middle one of the fullest planes where none was; also where the stages differ in shape.
    """
    changed = np.zeros(len(valid[-1]), int)
    if len({stage.shape for stage in valid}) == 1:
        for before, after in pairwise(valid):
            changed += (before ^ after).sum(axis=(1, 2))
    if changed.any():
        return int(np.argmax(changed))
    count = valid[-1].sum(axis=(1, 2))
    fullest = np.flatnonzero(count == count.max())
    return int(fullest[fullest.size // 2])


def encode_picture(image: np.ndarray, low: float, high: float) -> str:
    """An image as PNG in base64, one pixel per spaxel, the first row at the bottom.

    Parameters
    ----------
    image
        (y, x); NaN becomes transparent.
    low, high
        Values of the first and last colour.
    """
    from matplotlib import colormaps
    from PIL import Image

    with np.errstate(invalid="ignore"):
        share = np.clip((image - low) / (high - low), 0, 1)
    empty = ~np.isfinite(share)
    index = np.where(empty, _COLOURS, np.round(np.where(empty, 0, share) * (_COLOURS - 1))).astype(np.uint8)
    picture = Image.fromarray(index[::-1], mode="P")
    colours = (colormaps[COLOUR_MAP](np.linspace(0, 1, _COLOURS))[:, :3] * 255).round().astype(np.uint8)
    picture.putpalette([*colours.ravel().tolist(), 0, 0, 0])
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", transparency=_COLOURS, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def voxel_counts(cube: Cube) -> dict[str, Any]:
    """How many voxels a cube has, and what the corrections did to how many.

    Parameters
    ----------
    cube
        With the extensions that the corrections leave.

    Returns
    -------
    dict
        'field': voxels of the spaxels that have a value at any wavelength; 'good': those with a value. Where there is
        an extension of it, also 'spikes'; 'groups' ({number of groups: good voxels}); 'flat_rms' (of flat - 1, over
        the good voxels that have one) and 'without_flat' (good voxels).
    """
    good = cube.good
    counts: dict[str, Any] = {"field": int(good.any(axis=0).sum()) * len(good), "good": int(good.sum())}
    extensions = {name: cube.hdul[name].data for name in ("SPIKES", "NGROUPS", "FLAT") if name in cube.hdul}
    extensions = {name: data for name, data in extensions.items() if np.shape(data) == cube.shape}
    if "SPIKES" in extensions:
        counts["spikes"] = int((extensions["SPIKES"] > 0).sum())
    if "NGROUPS" in extensions:
        used, number = np.unique(extensions["NGROUPS"][good], return_counts=True)
        counts["groups"] = {str(int(n)): int(count) for n, count in zip(used, number, strict=True) if n > 0}
    if "FLAT" in extensions:
        without = good & ((cube.dq & DQ.NO_FLAT_FIELD) != 0)
        flat = extensions["FLAT"][good & ~without].astype(float)
        flat = flat[np.isfinite(flat) & (flat > 0)]
        counts["without_flat"] = int(without.sum())
        counts["flat_rms"] = float(np.sqrt(np.mean((flat - 1) ** 2))) if flat.size else None
    return counts


def observation_facts(cube: Cube) -> dict[str, Any]:
    """What a cube's headers tell of the observation, None where they do not.

    Parameters
    ----------
    cube
        Navigated or not.

    Returns
    -------
    dict
        Texts 'target', 'instrument', 'time', 'programme', 'observation', 'title', 'investigator', 'crds_context',
        'jwst_version', 'position' (of JWST: reconstructed, predicted, header); numbers 'exposures', 'groups' (of the
        ramps); 'pointing': None where no offset was applied, else a dict with 'ra', 'dec' and, where they were fitted,
        'ra_error', 'dec_error' [arcsec] and 'correlation'.
    """
    header = cube.header
    keys = {
        "instrument": ("INSTRUME",),
        "target": ("NAVTARG", "TARGPROP", "TARGNAME"),
        "time": ("NAVTIME", "DATE-AVG", "DATE-BEG", "DATE-OBS"),
        "programme": ("PROGRAM",),
        "observation": ("OBSERVTN",),
        "title": ("TITLE",),
        "investigator": ("PI_NAME",),
        "crds_context": ("CRDS_CTX",),
        "jwst_version": ("CAL_VER",),
        "position": ("NAVKERN",),
        "exposures": ("NEXPCUBE",),
        "groups": ("NGROUPS",),
    }
    facts = {name: next((header[key] for key in own if header.get(key)), None) for name, own in keys.items()}
    return {**facts, "pointing": _pointing(header, cube.sci_header)}


def _pointing(header: fits.Header, sci_header: fits.Header) -> dict[str, float] | None:
    keys = {"ra": OFFSET_KEYS[0], "dec": OFFSET_KEYS[1]}
    errors = {"ra_error": "NAV_SRA", "dec_error": "NAV_SDEC", "correlation": "NAV_RHO"}
    found = {name: float(sci_header[key]) for name, key in keys.items() if key in sci_header}
    found |= {name: float(header[key]) for name, key in errors.items() if key in header}
    return found or None
