"""Reduce NIRSpec IFU observations of solar-system targets, from raw ramps to navigated cubes and plots.

    python nirspec_pipeline.py /data/uranus
    python nirspec_pipeline.py /data/uranus --skip_steps plot --parallel 0.5

In: `ROOT/stage0/*_uncal.fits` of NRS1 and NRS2. Out, all in ROOT: `stage1/*_rate.fits`, `stage2/*_cal.fits`,
`stage3/{d1, d2, ..., combined}/Level3_g395h-f290lp_s3d.fits` with backplanes in `..._s3d_nav.fits`, `plots/`,
`animation/`, `report/`, `logs/`.

Both detectors contribute to one cube of a grating and filter; some settings light NRS1 alone. The readout's 1/f noise
is fitted and removed in stage 1. There are no fringes, and flats, if any are given, come after despiking.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import instrument_pipeline
import pipeline_command
from instruments import Instrument
from observations import Exposure
from pipeline import RunResult

STEPS = (
    "remove_groups",
    "stage1",
    "stage2",
    "cosmic_rays",
    "stage3",
    "navigate",
    "psf",
    "desaturate",
    "despike",
    "flat",
    "plot",
    "animate",
    "report",
)
# Settings whose spectra end before NRS2 (JDox, "NIRSpec IFU Spectroscopy").
ONLY_ON_NRS1 = ("PRISM", "G140M", "G235M", "G395M")


def bands(exposure: Exposure) -> list[str]:
    """The one cube that both detectors contribute to, as `jwst` names it: ['g395h-f290lp']."""
    return [f"{exposure.grating}-{exposure.filter}".lower()]


def sees_light(exposure: Exposure) -> bool:
    """Whether the spectra of the exposure's setting reach its detector."""
    if exposure.detector != "NRS2":
        return True
    return exposure.grating not in ONLY_ON_NRS1 and (exposure.grating, exposure.filter) != ("G140H", "F070LP")


def cube_bytes(band: str) -> float:
    """Size on disk [bytes] of a cube of one dither, by the number of wavelengths that its grating gives."""
    resolution = band.partition("-")[0][-1]
    # A medium grating's; CRDS' cubepar has 2.7 times as many planes for a high-resolution one, 0.7 for the prism.
    return 27.7e6 * {"h": 2.7, "m": 1.0}.get(resolution, 0.7)


def stage1_defaults(exposure: Exposure) -> dict[str, dict[str, Any]]:
    """Parameters of `Detector1Pipeline`: 1/f noise is fitted where no slice and no shutter lets light in.

    The usual clipping at 2 sigma takes parts of the stripes for signal, so that an eighth of each is left;
    the smooth glow of the closed shutters is kept out of the fit by a model of it. The mask is saved for
    `flicker_noise`, which fits what is left.
    """
    fit = {"mask_science_regions": True, "n_sigma": 4.0, "background_method": "model", "save_mask": True}
    return {"clean_flicker_noise": {"skip": False, **fit}}


NIRSPEC = Instrument(
    name="NIRSPEC",
    exposure_type="NRS_IFU",
    step_names=STEPS,
    bands=bands,
    switches=("background_subtract", "correct_psf"),
    flat_stage="stage5_flat",
    despike_stage="stage4_despike",
    # Measured with G395H: 2.1 GB for the two detectors of a dither, 4.5 GB for those of four; here with a third more.
    stage3_gigabytes=lambda members: 1.5 + 0.6 * members,
    rate_bytes=84.0e6,
    calibrated_bytes=202.9e6,
    cube_bytes=cube_bytes,
    stage1_defaults=stage1_defaults,
    # The usual kernel takes 10 GB for four dithers of a high-resolution grating.
    stage3_defaults={"outlier_detection": {"kernel_size": "3 3"}},
    sees_light=sees_light,
)


def run_pipeline(root_path: str | Path, **options: Any) -> RunResult | None:
    """Reduce the NIRSpec IFU observation in a folder; `instrument_pipeline.run_pipeline` describes the options."""
    return instrument_pipeline.run_pipeline(NIRSPEC, root_path, **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `python nirspec_pipeline.py --help`."""
    return pipeline_command.main(NIRSPEC, "nirspec_pipeline.py", argv)


if __name__ == "__main__":
    sys.exit(main())
