"""What an instrument's script says about its instrument."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from observations import Exposure
from reduction import Product

StepDefaults = Mapping[str, Mapping[str, Any]]

# Default and help of each variant switch.
SWITCHES: dict[str, tuple[bool | str, str]] = {
    "background_subtract": ("both", "subtract the background, where there is one"),
    "defringe": (False, "correct residual fringes of the calibrated exposures (2-D)"),
    "defringe_1d": ("both", "correct residual fringes of the cubes' spectra (1-D)"),
    "correct_psf": (False, "divide by the darkening of the limb by the PSF"),
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
    sees_light
        Whether an exposure's detector sees any of its spectra; others are left out.
    stage1_defaults, stage2_defaults, stage3_defaults
        Parameters of the `jwst` steps where ours differ from the package's.
    plot_prefix
        First part of the name of a cube's plot and animation.
    switches
        The variant switches that it has, of `SWITCHES`.
    stage3_gigabytes
        Memory that a task of stage 3 needs [GB], of the number of its exposures.
    flat_stage, despike_stage
        Directories of the flat-fielded and of the despiked cubes.
    """

    name: str
    exposure_type: str
    step_names: tuple[str, ...]
    bands: Callable[[Exposure], Sequence[str]]
    sees_light: Callable[[Exposure], bool]
    stage1_defaults: Callable[[Exposure], StepDefaults]
    stage2_defaults: StepDefaults
    stage3_defaults: StepDefaults
    plot_prefix: Callable[[Product], str]
    switches: tuple[str, ...]
    stage3_gigabytes: Callable[[int], float]
    flat_stage: str
    despike_stage: str
