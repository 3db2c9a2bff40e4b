"""Take residual fringes off MIRI/MRS data: the some per cent of the signal that the fringe flat of stage 2 leaves.

Two ways, told apart by the file:

- 1-D, on a cube `*_s3d.fits`: each spaxel's spectrum by itself, as `jwst` does for extracted spectra
  (`residual_fringes.fringe_factors`), on the whole spectrum or on ranges of wavelength each by itself;
- 2-D, on a calibrated exposure `*_cal.fits`: each detector column, by `ResidualFringeStep` of `jwst`.

SCI and ERR are divided by the fringes that were found. Spectra that cannot be fitted, or show no fringes above their
noise, stay as they are, bit for bit, and are counted.

Fringes are told from lines by their period alone. Where a planet has lines every few cm-1, lines
are taken for fringes in either way, and the correction does more harm than good. Fringes have another phase in each
slice, lines have not: so the part of the 1-D correction that all spectra share is measured, written to the header and
warned about; and the option `shared_lines` divides out the lines that the spectra share before fringes are searched.
Of fringes of 2 % put on spectra of Saturn measured with the MRS, it leaves 0.1 % in the median spectrum and 0.3 % or
less in nine of ten, where without it 1.5 to 9 % are done to the lines.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from command_line import ArgumentParser, run_command
from cubes import DQ, Cube, read_cube, read_fits, write_cube
from errors import CrdsError, FileFormatError, OptionError
from files import temporary_directory
from whole_spectra import whole_spectra

STEP_1D = "defringe_1d"
STEP_2D = "defringe"
MRS = "MIR_MRS"
CHANNELS = ("1", "2", "3", "4")

# What the corrections of all spectra have in common may have this rms (relative to the spectra), and be this share of
# the rms of the corrections, before lines are suspected; and the least number of spectra from which this can be told.
COMMON_LIMIT = 0.002
COMMON_SHARE = 0.3
COMMON_SPECTRA = 20

# Relative change below which a pixel is taken as untouched: `jwst` scales the image to and fro in single precision.
ROUNDING = 1e-6

CUBE_OPTIONS = ("wavelength_ranges", "shared_lines", "dichroic_only", "max_amplitude", "clip_sigma")

Ranges = Sequence[tuple[float, float]]


def defringe_cube(
    sci: np.ndarray,
    err: np.ndarray,
    wavelength: np.ndarray,
    channel: int,
    *,
    good: np.ndarray | None = None,
    wavelength_ranges: Ranges = (),
    lines: np.ndarray | None = None,
    dichroic_only: bool = False,
    max_amplitude: float = 0.4,
    clip_sigma: float = 5.0,
    ignore_regions: Ranges = (),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divide a cube by the residual fringes of each spaxel.

    Parameters
    ----------
    sci, err
        (wavelength, y, x), any unit. Values that are NaN or not positive do not enter the fit and stay as they are.
    wavelength
        (wavelength,) [um].
    channel
        MRS channel, 1 to 4.
    good
        (wavelength, y, x), False for values that must not be used; they stay as they are.
    wavelength_ranges
        Pairs of wavelengths [um]: only spectra within them are corrected, each range fitted by itself.
    lines
        (wavelength, y, x) lines relative to the continuum: fringes are searched in the spectra divided by them.
    dichroic_only, max_amplitude, clip_sigma, ignore_regions
        See `residual_fringes.fringe_factors`.

    Returns
    -------
    sci, err
        New arrays of the same type; bit for bit the old values where nothing was corrected.
    corrected
        (y, x) bool, True where fringes were fitted, in any of the ranges.

    Raises
    ------
    ValueError
        If the channel has no such fringes.
    """
    from residual_fringes import fringe_factors

    usable = np.isfinite(sci) & np.isfinite(err)
    if good is not None:
        usable &= good
    spectra = _spectra(sci, usable)
    if lines is not None:
        spectra /= lines.reshape(len(lines), -1).T
    options = {
        "dichroic_only": dichroic_only,
        "max_amplitude": max_amplitude,
        "clip_sigma": clip_sigma,
        "ignore_regions": ignore_regions,
    }
    if wavelength_ranges:
        factors, corrected = np.ones_like(spectra), np.zeros(len(spectra), dtype=bool)
        for low, high in wavelength_ranges:
            within = (wavelength >= low) & (wavelength <= high)
            factors[:, within], fitted = fringe_factors(spectra[:, within], wavelength[within], channel, **options)
            corrected |= fitted
    else:
        factors, corrected = fringe_factors(spectra, wavelength, channel, **options)
    factors = factors.T.reshape(sci.shape)
    sci, err = ((values * factors).astype(values.dtype, copy=False) for values in (sci, err))
    return sci, err, corrected.reshape(sci.shape[1:])


def _spectra(sci: np.ndarray, usable: np.ndarray) -> np.ndarray:
    return np.where(usable, sci, np.nan).reshape(len(sci), -1).T


def correction_rms(before: np.ndarray, after: np.ndarray, corrected: np.ndarray) -> tuple[float, float]:
    """Rms of a cube's corrections, and of what they have in common.

    Fringes differ in phase from slice to slice, and have a small mean over the field; lines are the same everywhere.

    Parameters
    ----------
    before, after
        (wavelength, y, x) without and with the correction.
    corrected
        (y, x)

    Returns
    -------
    rms, common
        Relative to the spectra: of the corrections, and of their mean over all spectra (0 for less than
        `COMMON_SPECTRA` spectra, from which it cannot be told).
    """
    if not corrected.any():
        return 0.0, 0.0
    old = before[:, corrected]
    change = np.divide(after[:, corrected], old, out=np.ones_like(old), where=np.isfinite(old) & (old > 0)) - 1
    rms = float(np.sqrt(np.mean(change**2, dtype=float)))
    if np.count_nonzero(corrected) < COMMON_SPECTRA:
        return rms, 0.0
    return rms, float(np.sqrt(np.mean(change.mean(axis=1, dtype=float) ** 2)))


def defringe_1d_file(
    path_in: str | Path,
    path_out: str | Path,
    *,
    wavelength_ranges: Ranges = (),
    shared_lines: bool = False,
    dichroic_only: bool = False,
    max_amplitude: float = 0.4,
    clip_sigma: float = 5.0,
    ignore_regions: Ranges = (),
    shorter_paths: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Correct the spectra of a cube, and mark the corrected spaxels in the extension FRINGE1D_CORRECTED.

    Parameters
    ----------
    path_in, path_out
        The cube to read and the one to write; they may be the same.
    shared_lines
        Find the lines that the spectra share, and divide them out before fringes are searched. For planets that fill a
        good part of the field, with spectra crowded with lines.
    wavelength_ranges, dichroic_only, max_amplitude, clip_sigma, ignore_regions
        See `defringe_cube`.
    shorter_paths
        Cubes of the same exposure from shorter ramps. Fringes are then searched in spectra whose
        saturated voxels are from these: in what saturation leaves of a spectrum they are not found.

    Returns
    -------
    dict
        'notes' and 'warnings' (lists of sentences); 'corrected' and 'not_fitted', numbers of spectra; 'rms' and
        'common_rms', see `correction_rms`.

    Raises
    ------
    FileFormatError
        If the file is no cube of one MRS channel.
    OptionError
        If a range is empty or the dichroic fringe is asked for in channel 1 or 2.
    """
    for low, high in (*wavelength_ranges, *ignore_regions):
        if not low < high:
            raise OptionError(f"a range of wavelengths from {low} to {high} um is empty: give the shorter one first.")
    cube = read_cube(path_in)
    channel = _channel(cube)
    if dichroic_only and channel < 3:
        raise OptionError(
            f"{path_in} is of channel {channel}, the dichroic fringe is in 3 and 4: drop --dichroic_only."
        )
    options = {
        "wavelength_ranges": wavelength_ranges,
        "dichroic_only": dichroic_only,
        "max_amplitude": max_amplitude,
        "clip_sigma": clip_sigma,
        "ignore_regions": ignore_regions,
    }
    facts: dict[str, Any] = {"notes": [], "warnings": []}
    good, wavelength = cube.good, cube.wavelength
    before, error = cube.sci, cube.err
    if shorter_paths:
        before, error, good = whole_spectra(cube, shorter_paths)
    lines = find_lines(before, wavelength, channel, good) if shared_lines else None
    if shared_lines and lines is None:
        facts["warnings"].append("too few bright spectra to find the lines that they share: none were divided out")
    sci, err, corrected = defringe_cube(before, error, wavelength, channel, good=good, lines=lines, **options)
    rms, common = correction_rms(before, sci, corrected)
    not_fitted = np.any(good & (before > 0), axis=0) & ~corrected
    counts = {"corrected": int(corrected.sum()), "not_fitted": int(not_fitted.sum()), "rms": rms, "common_rms": common}
    if shorter_paths:
        factor = np.divide(sci, before, out=np.ones_like(sci), where=good & cube.good & (before > 0))
        sci, err = cube.sci * factor, cube.err * factor
    cube.sci[...], cube.err[...] = sci, err
    cube.set_extension(
        "FRINGE1D_CORRECTED", corrected.astype(np.uint8), "", "1 where the spectrum was corrected for residual fringes."
    )
    parameters = {**options, "shared_lines": lines is not None, "shorter_ramps": len(shorter_paths), **counts}
    cube.add_note(STEP_1D, "Defringed (1-D)", parameters)
    write_cube(cube, path_out)
    facts["notes"].append(f"fringes taken off {counts['corrected']} of {corrected.size} spectra")
    if counts["not_fitted"]:
        facts["notes"].append(
            f"{counts['not_fitted']} spectra with data show no fringes above their noise, or could not be fitted: "
            "they are as they were"
        )
    if common > max(COMMON_LIMIT, COMMON_SHARE * rms):
        facts["warnings"].append(
            f"{common / rms:.0%} of the fringe correction is the same in all spectra, as lines are and fringes not: "
            "lines were probably taken for fringes; compare with the uncorrected cube, and try --shared_lines"
        )
    return facts | counts


def find_lines(sci: np.ndarray, wavelength: np.ndarray, channel: int, good: np.ndarray) -> np.ndarray | None:
    """The lines that a cube's spectra share, for `defringe_cube`; see `shared_lines.shared_lines`.

    Parameters
    ----------
    sci, wavelength, channel, good
        As in `defringe_cube`.

    Returns
    -------
    numpy.ndarray or None
        (wavelength, y, x), about 1; None if there are not enough bright spectra.
    """
    from residual_fringes import fringes_of
    from shared_lines import shared_lines

    fringes = [(period, half_width) for period, half_width, _ in fringes_of(channel)]
    # IFU-aligned: the slices of the image slicer lie along x.
    slices = np.indices(sci.shape[1:])[0].ravel()
    lines = shared_lines(_spectra(sci, good), wavelength, fringes, slices)
    return None if lines is None else lines.T.reshape(sci.shape).astype(sci.dtype)


def _channel(cube: Cube) -> int:
    channel = str(cube.header.get("CHANNEL", "")).strip()
    if cube.header.get("EXP_TYPE") != MRS or channel not in CHANNELS:
        found = f"EXP_TYPE {cube.header.get('EXP_TYPE')}, CHANNEL {channel or None}"
        raise FileFormatError(
            f"{cube.path} is no MIRI/MRS cube of one channel ({found}): fringes are corrected in those only."
        )
    return int(channel)


def defringe_file(path_in: str | Path, path_out: str | Path, *, ignore_regions: Ranges = ()) -> dict[str, Any]:
    """Correct a calibrated MRS exposure with `ResidualFringeStep` of `jwst`; needs CRDS.

    Besides SCI, which is all that the step corrects, ERR and the variances are divided by the fringes. What the step
    does not correct keeps its values, bit for bit.

    Parameters
    ----------
    path_in, path_out
        The `*_cal.fits` to read and the file to write; they may be the same.
    ignore_regions
        Pairs of wavelengths [um] between which data do not enter the fit.

    Returns
    -------
    dict
        'notes' and 'warnings' (lists of sentences); 'corrected', the number of pixels.

    Raises
    ------
    FileFormatError
        If the file is no calibrated MRS exposure.
    CrdsError
        If CRDS has not been set up or has no reference file.
    """
    path_in, path_out = Path(path_in), Path(path_out)
    before = read_fits(path_in)
    header = before[0].header
    if (
        "SCI" not in before
        or before["SCI"].data is None
        or before["SCI"].data.ndim != 2
        or header.get("EXP_TYPE") != MRS
    ):
        raise FileFormatError(f"{path_in} is no calibrated MIRI/MRS exposure: give a '*_cal.fits' file.")
    if header.get("S_FRINGE") != "COMPLETE":
        raise FileFormatError(
            f"{path_in} has no fringe flat applied (S_FRINGE): run stage 2 with its fringe step first."
        )
    with temporary_directory(path_out.parent) as directory:
        exposure = Cube(path_in, read_fits(_run_step(path_in, directory / path_out.name, ignore_regions)))
    corrected = _replace_corrected(exposure, before)
    exposure.add_note(STEP_2D, "Defringed (2-D)", {"ignore_regions": ignore_regions, "corrected": corrected})
    write_cube(exposure, path_out)
    notes = [f"fringes taken off {corrected} pixels, {corrected / before['SCI'].data.size:.0%} of the detector"]
    warnings = [] if corrected else [f"no column of {path_in.name} is bright enough for its fringes to be fitted"]
    return {"notes": notes, "warnings": warnings, "corrected": corrected}


def _run_step(path_in: Path, path_out: Path, ignore_regions: Ranges) -> Path:
    from crds_references import check_crds_environment

    check_crds_environment()
    from jwst.residual_fringe import ResidualFringeStep

    regions = {
        name: [str(region[k]) for region in ignore_regions] or None
        for k, name in enumerate(("ignore_region_min", "ignore_region_max"))
    }
    # The caller keeps the log; `jwst` must not set up handlers of its own.
    model = ResidualFringeStep.call(str(path_in), skip=False, configure_log=False, **regions)
    with model:
        if model.meta.cal_step.residual_fringe != "COMPLETE":
            raise CrdsError(f"CRDS has no fringe frequencies or slice regions for {path_in}: check CRDS_CONTEXT.")
        model.save(str(path_out))
    return path_out


def _replace_corrected(exposure: Cube, before: Any) -> int:
    """Take over the old values of untouched pixels, and correct the errors of the others; return how many those are."""
    old, new = before["SCI"].data, exposure.sci
    usable = np.isfinite(old) & (old > 0) & (before["DQ"].data & DQ.DO_NOT_USE == 0) & np.isfinite(new) & (new > 0)
    factor = np.divide(new, old, out=np.ones(old.shape), where=usable)
    touched = np.abs(factor - 1) > ROUNDING
    new[~touched] = old[~touched]
    for name, power in (("ERR", 1), ("VAR_POISSON", 2), ("VAR_RNOISE", 2), ("VAR_FLAT", 2)):
        if name in exposure.hdul and np.shape(exposure.hdul[name].data) == old.shape:
            values = exposure.hdul[name].data
            values[touched] = values[touched] * factor[touched] ** power
    return int(touched.sum())


def _command(argv: Sequence[str] | None) -> dict[str, Any]:
    parser = ArgumentParser(
        prog="defringe.py", description="Take residual fringes off a MIRI/MRS cube (1-D) or calibrated exposure (2-D)."
    )
    parser.add_argument("path_in", metavar="IN", help="cube (*_s3d.fits) or exposure (*_cal.fits) to read")
    parser.add_argument("path_out", metavar="OUT", help="file to write")
    pair = {"type": float, "nargs": 2, "metavar": ("MIN", "MAX"), "action": "append", "default": []}
    parser.add_flag("ignore_regions", **pair, help="wavelengths [um] that do not enter the fit; may be repeated")
    parser.add_flag("wavelength_ranges", **pair, help="cubes: correct only these wavelengths [um]; may be repeated")
    parser.add_flag(
        "shared_lines", action="store_true", help="cubes: divide out the lines that all spectra share first"
    )
    parser.add_flag("dichroic_only", action="store_true", help="cubes of channels 3 and 4: only the dichroic fringe")
    parser.add_flag("max_amplitude", type=float, default=0.4, help="cubes: largest fringe that is believed (relative)")
    parser.add_flag("clip_sigma", type=float, default=5.0, help="cubes: what stands out by so many sigma is a line")
    options = vars(parser.parse_args(argv))
    hdul = read_fits(options["path_in"])
    if "SCI" in hdul and hdul["SCI"].header["NAXIS"] == 3:
        facts = defringe_1d_file(**options)
    else:
        given = [name for name in CUBE_OPTIONS if options.pop(name) != parser.get_default(name)]
        if given:
            raise OptionError(f"--{given[0]} is for cubes, and {options['path_in']} is none: leave it out.")
        facts = defringe_file(**options)
    return facts


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python defringe.py IN OUT [options]`; returns its exit status."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
