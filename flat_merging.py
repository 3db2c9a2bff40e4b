"""Merge flats of the same band, from different observations or tiles of a mosaic, into one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from errors import InputError
from flat_files import SAME_BAND, Flat, IfuGrid, read_flat, regrid, write_flat


def merge_flats(flats: Sequence[Flat]) -> Flat:
    """Make one flat of several of the same band, from different observations or tiles.

    At each wavelength the flats are scaled so that they agree on average on the spaxels that they share with those
    merged before them, then averaged with weights 1/error^2.

    Parameters
    ----------
    flats
        With grids that fit (or none, and one shape) and the same wavelengths. A flat without errors counts as one of
        1 %.

    Returns
    -------
    Flat
        On the smallest grid that holds all. NaN where none has a value; the scatter is dropped.

    Raises
    ------
    InputError
        If they do not fit together.
    """
    if not flats:
        raise InputError("no flats to merge: name at least one.")
    flats = [_aligned(flat, grid) for flat, grid in zip(flats, [_merged_grid(flats)] * len(flats), strict=True)]
    _check_alike(flats)
    total = np.zeros(flats[0].flat.shape)
    weight = np.zeros_like(total)
    for flat in flats:
        error = np.where(flat.error > 0, flat.error, 0.01)
        known = np.isfinite(flat.flat) & np.isfinite(error) & flat.corrected[:, None, None]
        own = np.where(known, 1 / np.where(known, error, 1.0) ** 2, 0.0)
        common = known & (weight > 0)
        share = np.where(common, own * weight / np.where(common, own + weight, 1.0), 0.0)
        ratio = np.where(common, total / np.where(common, weight * flat.flat, 1.0), 1.0)
        norm = share.sum(axis=(1, 2))
        scale = np.where(norm > 0, np.exp((share * np.log(ratio)).sum(axis=(1, 2)) / np.where(norm > 0, norm, 1)), 1.0)
        total += np.where(known, own * scale[:, None, None] * flat.flat, 0.0)
        weight += own
    known = weight > 0
    mean = np.where(known, total / np.where(known, weight, 1.0), np.nan)
    error = np.where(known, 1 / np.sqrt(np.where(known, weight, 1.0)), np.nan)
    corrected = known.any(axis=(1, 2))
    norm = np.where(known, mean, 0.0).sum(axis=(1, 2)) / np.maximum(known.sum(axis=(1, 2)), 1)
    mean /= np.where(corrected, norm, 1)[:, None, None]
    error /= np.where(corrected, norm, 1)[:, None, None]
    mean[~corrected], error[~corrected] = 1.0, 0.0
    exposures = tuple(exposure for flat in flats for exposure in flat.exposures)
    cutoff = min(flat.emission_cutoff for flat in flats)
    merged = replace(flats[0], flat=mean, error=error, corrected=corrected, scatter_before=None, scatter_after=None)
    return replace(merged, exposures=exposures, emission_cutoff=cutoff)


def _merged_grid(flats: Sequence[Flat]) -> IfuGrid | None:
    grids = [flat.grid for flat in flats]
    if any(grid is None for grid in grids):
        return None
    common = grids[0]
    for grid in grids:
        if grid.steps_to(common) is None:
            raise InputError(
                f"flats of shapes {common.shape} and {grid.shape} do not lie alike in the IFU: they can't be merged."
            )
        common = common.joined(grid)
    return common


def _aligned(flat: Flat, grid: IfuGrid | None) -> Flat:
    if grid is None:
        return flat
    steps = flat.grid.steps_to(grid)
    values = (regrid(v, steps, grid.shape) for v in (flat.flat, flat.error))
    return replace(flat, **dict(zip(("flat", "error"), values, strict=True)), grid=grid)


def _check_alike(flats: Sequence[Flat]) -> None:
    first = flats[0]
    for flat in flats:
        if flat.flat.shape != first.flat.shape:
            raise InputError(
                f"flats of shapes {first.flat.shape} and {flat.flat.shape} can't be merged: give flats of one band."
            )
        given = [f.wavelength for f in (first, flat) if f.wavelength is not None]
        if len(given) == 2 and not np.allclose(*given, rtol=1e-6):
            raise InputError("the flats have different wavelengths: give flats of one band.")
        for key in SAME_BAND:
            values = {f.identity[key] for f in (first, flat) if key in f.identity}
            if len(values) > 1:
                raise InputError(
                    f"the flats have different {key} ({', '.join(sorted(map(str, values)))}): give flats of one band."
                )


def merge_flat_files(paths_in: Sequence[str | Path], path_out: str | Path) -> dict[str, Any]:
    """Merge flat files, see `merge_flats`.

    Returns
    -------
    dict
        'notes' and 'warnings' (lists of sentences).
    """
    paths = [Path(path) for path in paths_in]
    flat = merge_flats([read_flat(path) for path in paths])
    write_flat(flat, path_out, "Flats merged", {"n_merged": len(paths)}, [path.name for path in paths])
    return {"notes": [f"{len(paths)} flats merged"], "warnings": []}
