"""Reduce MIRI/MRS observations of solar-system targets, from raw ramps to navigated cubes and plots.

    python miri_pipeline.py /data/saturn
    python miri_pipeline.py /data/saturn --skip_steps plot --parallel 0.5

In: `ROOT/stage0/*_uncal.fits`. Out, all in ROOT: `stage1/*_rate.fits`, `stage2/*_cal.fits`,
`stage3/{d1, d2, ..., combined}/Level3_ch1-short_s3d.fits` with backplanes in `..._s3d_nav.fits`, `plots/`,
`animation/`, `report/`, `logs/`.

An exposure sees two channels, each with a band and a cube of its own. Light that interferes in the detector leaves
fringes in the spectra: they are corrected on the detector or in the cubes. Flats come before despiking.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import instrument_pipeline
import pipeline_command
from instruments import Instrument
from observations import Exposure, band_label
from pipeline import RunResult
from reduction import Product

STEPS = (
    "remove_groups",
    "stage1",
    "stage2",
    "defringe",
    "cosmic_rays",
    "stage3",
    "defringe_1d",
    "navigate",
    "psf",
    "desaturate",
    "flat",
    "despike",
    "plot",
    "animate",
    "report",
)
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
    return f"{band_label(product.band)}_"


MIRI = Instrument(
    name="MIRI",
    exposure_type="MIR_MRS",
    step_names=STEPS,
    bands=bands,
    switches=("background_subtract", "defringe", "defringe_1d", "correct_psf"),
    flat_stage="stage4_flat",
    despike_stage="stage5_despike",
    # Measured with 1A and 2A: 0.6 GB for one exposure; 2.4 GB for two, 2.5 GB for four: outliers are looked for.
    stage3_gigabytes=lambda members: 1.0 if members == 1 else 2.8 + 0.1 * members,
    rate_bytes=21.2e6,
    calibrated_bytes=34.2e6,
    # Of channel 1; the others are up to a third smaller.
    cube_bytes=lambda band: 15.3e6,
    stage1_defaults=stage1_defaults,
    plot_prefix=plot_prefix,
)


def run_pipeline(root_path: str | Path, **options: Any) -> RunResult | None:
    """Reduce the MIRI/MRS observation in a folder; `instrument_pipeline.run_pipeline` describes the options."""
    return instrument_pipeline.run_pipeline(MIRI, root_path, **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `python miri_pipeline.py --help`."""
    return pipeline_command.main(MIRI, "miri_pipeline.py", argv)


if __name__ == "__main__":
    sys.exit(main())
