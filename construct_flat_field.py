"""Construct a flat field from the dithers of an observation of a planet that fills the field.

In: at least four navigated cubes (`*_s3d_nav.fits`) of one band, dithered. Out: one flat file (`flat_files`) with the
relative response of each place in the IFU at each wavelength, its error, and the scatter between dithers that it
leaves. `--merge` makes one flat of several, from different observations or tiles (`flat_merging`).

Method: one linear model of ln(brightness) for all dithers, in which the flat stays with the IFU and the scene with
the planet (`flat_model`). The noise is the cubes' ERR, enlarged to what the residuals show; single voxels beyond
`nsigma` get no weight. Wavelengths of low signal to noise keep a flat of 1. A dither held out, and a flat made
without it, show what it is worth.

It replaces the matching of spaxel pairs of Fletcher et al. 2023, JGR Planets 128, e2023JE007924, whose options' names
it keeps.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from command_line import ArgumentParser, run_command
from cubes import Cube, read_cube
from errors import FileFormatError, InputError
from flat_files import SAME_BAND, IfuGrid, behind_rings, exposure_of, fringe_label, identity_of, regrid, write_flat
from flat_merging import merge_flat_files
from flat_solution import MINIMUM_DITHERS, construct_flat

SPEED_OF_LIGHT = 299792.458  # km/s

# Share of the IFU that must see the planet, so that flat and limb can be told apart; below the second, a warning.
_LEAST_COVERAGE, _GOOD_COVERAGE = 0.25, 0.7
_LEAST_DITHER_STEP = 1.0  # spaxels

_PLANES = ("LAT", "LON", "EMISSION")
_USED = (*_PLANES, "DOPPLER_BARY", "DISTANCE_RINGS")
# What any angle and any planet's motion can be.
_PLAUSIBLE = {**dict.fromkeys(_PLANES, (-360.0, 360.0)), "DOPPLER_BARY": (0.99, 1.01)}


def construct_flat_field_files(
    paths_in: Sequence[str | Path],
    path_out: str | Path,
    *,
    lat_bin_size_factor: float = 0.5,
    bin_aspect: float = 4.0,
    emission_cutoff: float = 75.0,
    snr_threshold: float = 10.0,
    nsigma: float = 5.0,
    sigma_iterations: int = 5,
    max_correction: float = 1.5,
) -> dict[str, Any]:
    """Construct a flat from the navigated cubes of dithers and write it.

    Parameters
    ----------
    paths_in
        The dithers' cubes, at least four, of one band, IFU-aligned and navigated; they may differ by rows and columns.
    path_out
        The flat file.
    lat_bin_size_factor, bin_aspect, emission_cutoff, snr_threshold, nsigma, sigma_iterations, max_correction
        See `flat_solution.construct_flat`.

    Returns
    -------
    dict
        'notes' and 'warnings' (lists of sentences), and the facts of `flat_solution.construct_flat`.

    Raises
    ------
    FileFormatError
        If a file is no cube or not navigated.
    InputError
        If the cubes are not dithers of one band, are too few, or the planet is too small for the field.
    """
    options = {
        "lat_bin_size_factor": lat_bin_size_factor,
        "bin_aspect": bin_aspect,
        "emission_cutoff": emission_cutoff,
        "snr_threshold": snr_threshold,
        "nsigma": nsigma,
        "sigma_iterations": sigma_iterations,
        "max_correction": max_correction,
    }
    paths = [Path(path) for path in paths_in]
    if len(paths) < MINIMUM_DITHERS:
        raise InputError(
            f"{len(paths)} cubes are too few for a flat: give the cubes of at least {MINIMUM_DITHERS} dithers."
        )
    cubes = [read_cube(path) for path in paths]
    _check_dithers(cubes)
    warnings: list[str] = []
    _check_coverage(cubes, emission_cutoff, warnings)
    grid = _common_grid(cubes)
    identity, wavelength = identity_of(cubes[0].header), cubes[0].wavelength
    exposures = tuple(exposure_of(cube.header) for cube in cubes)
    fringe = fringe_label(cubes[0])
    arrays = _arrays(cubes, grid)
    del cubes
    sci, err, latitude, longitude, emission = (arrays.pop(name) for name in ("SCI", "ERR", *_PLANES))
    flat, facts = construct_flat(
        sci, err, latitude, longitude, emission, velocity=arrays["velocity"], excluded=arrays["excluded"], **options
    )
    flat = replace(flat, wavelength=wavelength, grid=grid, identity=identity)
    flat = replace(flat, exposures=exposures, emission_cutoff=emission_cutoff)
    notes = _describe(facts, wavelength.size, warnings)
    written = {key: value for key, value in facts.items() if not isinstance(value, list)}
    for name, values in (("gain", facts.get("gains", [])), ("gain_error", facts.get("gain_errors", []))):
        written |= {f"{name}_{number}": value for number, value in enumerate(values, start=1)}
    parameters = {**options, "fringe": fringe.lstrip("_") or "none", **written}
    write_flat(flat, path_out, "Flat constructed", parameters, [path.name for path in paths])
    return {"notes": notes, "warnings": warnings, **facts}


def _describe(facts: dict[str, Any], wavelengths: int, warnings: list[str]) -> list[str]:
    skipped = wavelengths - facts["n_corrected"]
    notes = []
    if skipped:
        notes.append(f"{skipped} of {wavelengths} wavelengths have too low a signal: their flat is 1")
    if not facts["n_corrected"]:
        warnings.append("no wavelength has the signal for a flat: it is 1 everywhere")
    elif np.isfinite(facts["scatter_ratio"]):
        notes.append(
            f"scatter of the dither held out: {100 * facts['scatter_before']:.2f} % before, "
            f"{100 * facts['scatter_after']:.2f} % after, ratio {facts['scatter_ratio']:.2f}"
        )
        if facts["scatter_ratio"] < 1:
            warnings.append("the flat makes the dither held out less equal to the others: do not use it")
    else:
        warnings.append("no two dithers see enough of the same places: what the flat is worth can't be tested")
    if facts.get("gain_width", 0) > 0.001:
        warnings.append(
            f"the dithers differ in brightness as a whole (about {100 * facts['gain_width']:.1f} %), or the planet "
            "changes: a gradient of the flat is known no better than that"
        )
    elif facts.get("gain_limit", 0) > 0.001:
        notes.append(
            "the dithers are taken to be equally bright; if they differ by "
            f"{100 * facts['gain_limit']:.1f} %, which the data do not exclude, a gradient of that size is in the flat "
            "and not in its error"
        )
    return notes


def _check_dithers(cubes: list[Cube]) -> None:
    first = cubes[0]
    for cube in cubes:
        missing = [name for name in _PLANES if name not in cube.hdul]
        if missing:
            raise FileFormatError(f"{cube.path} has no backplane {', '.join(missing)}: run navigate.py on it first.")
        odd = [name for name in _USED if name in cube.hdul and cube.hdul[name].shape != cube.shape[1:]]
        if odd:
            raise FileFormatError(
                f"{cube.path} has backplanes of another shape than its images ({', '.join(odd)}): run navigate.py on "
                "it again."
            )
        planes = {name: limits for name, limits in _PLAUSIBLE.items() if name in cube.hdul}
        wrong = [n for n, (least, most) in planes.items() if _any_outside(cube.hdul[n].data, least, most)]
        if wrong:
            raise FileFormatError(
                f"{cube.path} has backplanes with values that can not be true ({', '.join(wrong)}): run navigate.py "
                "on it again."
            )
        for key in SAME_BAND:
            if cube.header.get(key) != first.header.get(key):
                raise InputError(
                    f"{cube.path} has {key} {cube.header.get(key)}, {first.path} has {first.header.get(key)}: give "
                    "the dithers of "
                    "one band."
                )
        same = cube.shape[0] == first.shape[0] and np.allclose(cube.wavelength, first.wavelength, rtol=1e-6)
        if not same:
            raise InputError(
                f"{cube.path} and {first.path} have different wavelengths ({cube.shape[0]} and {first.shape[0]}): make "
                "the cubes of all dithers with the same settings."
            )
    moved = [_place_on_target(cube) for cube in cubes]
    spread = max(np.hypot(*(np.subtract(a, b))) for a in moved for b in moved)
    if spread < _LEAST_DITHER_STEP:
        raise InputError(
            f"the cubes, {first.path} and others, all look at the same place on the planet (within {spread:.2f} "
            "spaxels): a flat needs dithers."
        )


def _any_outside(values: np.ndarray, least: float, most: float) -> bool:
    return bool(np.any((values < least) | (values > most)))


def _place_on_target(cube: Cube) -> tuple[float, float]:
    """Where on the sky the field's middle lies relative to the moving target, in spaxels."""
    header = cube.sci_header
    scale = np.mean(IfuGrid.of_cube(cube).spaxel) / 3600
    east = (header["CRVAL1"] - header.get("MT_RA", 0.0) + 180) % 360 - 180
    north = header["CRVAL2"] - header.get("MT_DEC", 0.0)
    return east * np.cos(np.radians(header["CRVAL2"])) / scale, north / scale


def _check_coverage(cubes: list[Cube], emission_cutoff: float, warnings: list[str]) -> None:
    coverage, at_edge = [], False
    for cube in cubes:
        field = np.isfinite(cube.sci).any(axis=0)
        emission = cube.hdul["EMISSION"].data
        coverage.append(float((field & (emission < emission_cutoff)).sum() / max(field.sum(), 1)))
        inside = np.pad(field, 1)
        edge = field & ~(inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:])
        at_edge |= bool((edge & np.isfinite(emission)).any())
    share = float(np.mean(coverage))
    target = cubes[0].header.get("NAVTARG", cubes[0].header.get("TARGNAME", "the target"))
    if share == 0:
        raise InputError(
            f"{cubes[0].path}: no spaxel of the dithers sees {target} below {emission_cutoff} deg emission: no flat."
        )
    if not at_edge:
        raise InputError(
            f"{cubes[0].path}: {target} is smaller than the field, its limb and a flat can't be told apart: make "
            "flats from a target "
            "that fills the field."
        )
    if share < _LEAST_COVERAGE:
        raise InputError(
            f"{cubes[0].path}: {target} covers only {100 * share:.0f} % of the field below {emission_cutoff} deg "
            "emission: a flat needs "
            f"{100 * _LEAST_COVERAGE:.0f} % or more."
        )
    if share < _GOOD_COVERAGE:
        warnings.append(
            f"{target} covers {100 * share:.0f} % of the field: the flat is NaN or less certain in the rest"
        )


def _common_grid(cubes: list[Cube]) -> IfuGrid:
    grids = [IfuGrid.of_cube(cube) for cube in cubes]
    common = grids[0]
    for cube, grid in zip(cubes, grids, strict=True):
        if grid.steps_to(common) is None:
            raise InputError(
                f"{cube.path} {cube.shape} and {cubes[0].path} {cubes[0].shape} do not lie alike in the IFU: build "
                "all cubes with coord_system "
                "'ifualign' and the same spaxel size."
            )
        common = common.joined(grid)
    return common


def _arrays(cubes: list[Cube], grid: IfuGrid) -> dict[str, np.ndarray]:
    steps = [IfuGrid.of_cube(cube).steps_to(grid) for cube in cubes]

    def stack(values: list[np.ndarray]) -> np.ndarray:
        return np.stack([regrid(v, step, grid.shape) for v, step in zip(values, steps, strict=True)])

    arrays = {name: stack([cube.hdul[name].data.astype(float) for cube in cubes]) for name in _PLANES}
    arrays["SCI"] = stack([np.where(cube.good, cube.sci, np.nan) for cube in cubes])
    arrays["ERR"] = stack([cube.err for cube in cubes])
    arrays["velocity"] = None
    if all("DOPPLER_BARY" in cube.hdul for cube in cubes):
        arrays["velocity"] = stack([(cube.hdul["DOPPLER_BARY"].data - 1) * SPEED_OF_LIGHT for cube in cubes])
    arrays["excluded"] = stack([behind_rings(cube) for cube in cubes])
    return arrays


def _command(argv: Sequence[str] | None) -> dict[str, Any]:
    parser = ArgumentParser(
        prog="construct_flat_field.py",
        description="Construct a flat field from four or more dithers of a planet that fills the field.",
    )
    parser.add_argument("paths_in", metavar="DITHER", nargs="+", help="navigated cubes (*_s3d_nav.fits) of one band")
    parser.add_argument("path_out", metavar="OUT", help="flat file to write")
    parser.add_flag(
        "lat_bin_size_factor",
        type=float,
        default=0.5,
        help="half the grid step of the scene in latitude steps of the spaxels",
    )
    parser.add_flag(
        "bin_aspect", type=float, default=4.0, help="how much longer than in latitude features are in longitude"
    )
    parser.add_flag("emission_cutoff", type=float, default=75.0, help="largest emission angle used [deg]")
    parser.add_flag(
        "snr_threshold", type=float, default=10.0, help="wavelengths of lower median signal to noise keep a flat of 1"
    )
    parser.add_flag("nsigma", type=float, default=5.0, help="voxels further from the model get no weight")
    parser.add_flag("sigma_iterations", type=int, default=5, help="at most so many rounds of that")
    parser.add_flag("max_correction", type=float, default=1.5, help="flats above this or below its inverse are NaN")
    parser.add_flag("merge", action="store_true", help="the inputs are flat files: average them")
    options = vars(parser.parse_args(argv))
    paths_in, path_out = options.pop("paths_in"), options.pop("path_out")
    if options.pop("merge"):
        facts = merge_flat_files(paths_in, path_out)
    else:
        facts = construct_flat_field_files(paths_in, path_out, **options)
    return facts


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python construct_flat_field.py DITHER... OUT [options]`; returns its exit status."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
