"""What an instrument's script says about its instrument."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from observations import Exposure
from reduction import Product

StepDefaults = Mapping[str, Mapping[str, Any]]

# The variant switches that instruments may have, fields of `reduction.Options`, with what each does.
SWITCHES = {
    "background_subtract": "subtract the background, where there is one",
    "defringe": "correct residual fringes of the calibrated exposures (2-D)",
    "defringe_1d": "correct residual fringes of the cubes' spectra (1-D)",
    "correct_psf": "divide by the darkening of the limb by the PSF",
}


# Cubes are built in stage 3 only, in the slicer's own frame; a planet has no one-dimensional spectrum to extract.
STAGE2_DEFAULTS: StepDefaults = {"cube_build": {"skip": True}, "extract_1d": {"skip": True}}
STAGE3_DEFAULTS: StepDefaults = {
    "cube_build": {"output_type": "band", "coord_system": "ifualign"},
    "extract_1d": {"skip": True},
    "spectral_leak": {"skip": True},
}


@dataclass(frozen=True)
class Instrument:
    """What distinguishes one instrument's pipeline.

    Attributes
    ----------
    name
        INSTRUME keyword.
    exposure_type
        EXP_TYPE of its integral-field exposures; all others are left out.
    step_names
        The steps in their order.
    bands
        Names of the cubes that an exposure contributes to: ['ch1-short', 'ch2-short'].
    switches
        The variant switches that it has, of `SWITCHES`.
    flat_stage, despike_stage
        Directories of the flat-fielded and of the despiked cubes.
    rate_bytes, calibrated_bytes
        Sizes of a rate image and of a calibrated exposure on disk.
    cube_bytes
        Size on disk of a cube of one dither, of its band.
    stage3_gigabytes
        Memory that a task of stage 3 needs [GB], of the number of its exposures.
    stage1_defaults
        Parameters of the `jwst` steps of stage 1 where ours differ from the package's.
    stage3_defaults
        Those of stage 3 besides `STAGE3_DEFAULTS`; stage 2 has none besides `STAGE2_DEFAULTS`.
    sees_light
        Whether an exposure's detector sees any of its spectra; others are left out.
    plot_prefix
        First part of the name of a cube's plot and animation.
    """

    name: str
    exposure_type: str
    step_names: tuple[str, ...]
    bands: Callable[[Exposure], Sequence[str]]
    switches: tuple[str, ...]
    flat_stage: str
    despike_stage: str
    rate_bytes: float
    calibrated_bytes: float
    cube_bytes: Callable[[str], float]
    stage3_gigabytes: Callable[[int], float]
    stage1_defaults: Callable[[Exposure], StepDefaults]
    stage3_defaults: StepDefaults = field(default_factory=dict)
    sees_light: Callable[[Exposure], bool] = lambda exposure: True
    plot_prefix: Callable[[Product], str] = lambda product: ""
