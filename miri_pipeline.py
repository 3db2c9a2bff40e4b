"""Reduce MIRI/MRS observations of solar-system targets, from raw ramps to navigated cubes and plots.

    python miri_pipeline.py /data/saturn
    python miri_pipeline.py /data/saturn --skip_steps plot --parallel 0.5

In: `ROOT/stage0/*_uncal.fits`. Out, all in ROOT: `stage1/*_rate.fits`, `stage2/*_cal.fits`,
`stage3/{d1, d2, ..., combined}/Level3_ch1-short_s3d.fits` with backplanes in `..._s3d_nav.fits`, `plots/`,
`animation/`, `logs/`.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import instrument_pipeline
import pipeline_command
from instruments import Instrument
from observations import Exposure
from pipeline import RunResult
from reduction import Product

STEPS = (
    "remove_groups",
    "stage1",
    "stage2",
    "defringe",
    "stage3",
    "defringe_1d",
    "navigate",
    "psf",
    "desaturate",
    "flat",
    "despike",
    "plot",
    "animate",
)
BAND_LETTERS = {"short": "A", "medium": "B", "long": "C"}
# Ramps this short have no groups to spare: these steps would flag those that are left.
SHORT_RAMP_GROUPS = 3
SKIPPED_IN_SHORT_RAMPS = ("firstframe", "lastframe", "rscd", "jump")


def bands(exposure: Exposure) -> list[str]:
    """The bands that one detector sees at once, as `jwst` names them: ['ch1-short', 'ch2-short']."""
    return [f"ch{channel}-{exposure.band.lower()}" for channel in exposure.channel]


def stage1_defaults(exposure: Exposure) -> dict[str, dict[str, Any]]:
    """Parameters of `Detector1Pipeline`: short ramps keep all their groups."""
    if exposure.groups > SHORT_RAMP_GROUPS:
        return {}
    return {step: {"skip": True} for step in SKIPPED_IN_SHORT_RAMPS}


def plot_prefix(product: Product) -> str:
    """The band in the usual short form, '1A_' for channel 1 short."""
    channel, _, band = product.band.removeprefix("ch").partition("-")
    return f"{channel}{BAND_LETTERS.get(band, band)}_"


MIRI = Instrument(
    name="MIRI",
    exposure_type="MIR_MRS",
    step_names=STEPS,
    bands=bands,
    sees_light=lambda exposure: True,
    stage1_defaults=stage1_defaults,
    # Cubes are built in stage 3 only; a planet has no one-dimensional spectrum to extract.
    stage2_defaults={"cube_build": {"skip": True}, "extract_1d": {"skip": True}},
    stage3_defaults={
        "cube_build": {"output_type": "band", "coord_system": "ifualign"},
        "extract_1d": {"skip": True},
        "spectral_leak": {"skip": True},
    },
    plot_prefix=plot_prefix,
    switches=("background_subtract", "defringe", "defringe_1d", "correct_psf"),
    stage3_gigabytes=lambda members: 0.5 + 0.6 * members,
    flat_stage="stage4_flat",
    despike_stage="stage5_despike",
)


def run_pipeline(
    root_path: str | Path,
    *,
    skip_steps: Iterable[str] = (),
    start_step: str | None = None,
    end_step: str | None = None,
    parallel: float | bool = False,
    cluster: str | None = None,
    workers: int | None = None,
    memory_limit: str | float | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    background_subtract: bool | str = "both",
    background_path: str | Path | None = None,
    cube_build_weighting: str = "drizzle",
    basic_navigation: bool = False,
    fit_pointing: bool = False,
    desaturate: bool | str = False,
    groups_to_use: Iterable[int] | None = None,
    defringe: bool | str = False,
    defringe_1d: bool | str = "both",
    correct_psf: bool | str = False,
    flat_data_path: str | Path | None = None,
    construct_flats: bool = False,
    step_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
) -> RunResult | None:
    """Reduce the MIRI/MRS observation in a folder.

    Parameters
    ----------
    root_path
        Folder that holds `stage0/*_uncal.fits`; everything that is made goes into it.
    skip_steps
        Steps to leave out; see `STEPS`.
    start_step, end_step
        First and last step to run.
    parallel
        False: one task after another; True: on all cores; a number in (0, 1]: on that fraction of them.
    cluster
        Run on a Dask cluster instead: address of its scheduler, 'slurm' or 'local'.
    workers
        How many workers to ask SLURM for, or jobs at once on a local cluster.
    memory_limit
        What tasks on one machine may need together: 16e9 or '16GB'. Others wait.
    overwrite
        Make everything anew, also what has been made from the same inputs with the same parameters.
    dry_run
        Print the plan and stop.
    quiet, verbose
        Say only what went wrong; say a line for each task.
    background_subtract
        True, False or 'both': cubes with the background subtracted, without, or either. Where there is no background,
        cubes are made without.
    background_path
        Root of the background observation, reduced to stage 1. Without it the root's own background exposures
        (BKGDTARG) serve.
    cube_build_weighting
        'drizzle', 'emsm' or 'msm'.
    basic_navigation
        Only RA and Dec backplanes, without SPICE kernels.
    fit_pointing
        Find the disc in each cube and correct the pointing by it.
    desaturate
        True: reduce the data also with fewer groups and take saturated voxels from those. 'ramp': choose the groups of
        each detector pixel before the ramp fit; stages 2 and 3 run once only.
    groups_to_use
        Numbers of groups for `desaturate`; None: all.
    defringe, defringe_1d, correct_psf
        True, False or 'both': correct residual fringes of the calibrated exposures (2-D), of the cubes' spectra (1-D),
        the darkening of the limb by the PSF.
    flat_data_path
        Flat file, folder of flats, or file name in which {channel}, {band} and {fringe} are filled in.
    construct_flats
        Make flats of this observation's own dithers (at least four) and use them.
    step_kwargs
        Parameters of single steps; those of stages 1-3 by `jwst` step:
        {'stage1': {'jump': {'rejection_threshold': 5.0}}, 'navigate': {'ra_offset': 0.1}}.

    Returns
    -------
    pipeline.RunResult or None
        What was done, skipped and failed; None after a dry run.

    Raises
    ------
    errors.InputError
        If the input or an option is wrong. Nothing has been done then.
    """
    arguments = dict(locals())
    return instrument_pipeline.run_pipeline(MIRI, arguments.pop("root_path"), **arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `python miri_pipeline.py --help`."""
    return pipeline_command.main(MIRI, "miri_pipeline.py", argv)


if __name__ == "__main__":
    sys.exit(main())
