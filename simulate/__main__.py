"""Simulated observations on the command line: `python -m simulate miri OUT [options]`, or `nirspec`."""

import sys
from argparse import SUPPRESS, ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

from command_line import ArgumentParser, run_command
from simulate.mrs_plan import MrsSettings
from simulate.nirspec_plan import GRATINGS, NirspecSettings
from simulate.plan import FIELDS, Settings


def build_parser() -> ArgumentParser:
    """The parser of `python -m simulate`."""
    parser = ArgumentParser(
        prog="python -m simulate",
        description="Make a small JWST observation of a planet with known truth, with everything needed to reduce it.",
    )
    instruments = parser.add_subparsers(dest="instrument", required=True, metavar="INSTRUMENT")
    _add_miri(instruments.add_parser("miri", help="MIRI medium-resolution spectrometer (MRS)"))
    _add_nirspec(instruments.add_parser("nirspec", help="NIRSpec integral-field unit (IFU)"))
    return parser


def _add_miri(parser: ArgumentParser) -> None:
    defaults = MrsSettings()
    _add_first(parser, defaults)
    parser.add_flag("bands", default=",".join(defaults.bands), help="of short,medium,long")
    parser.add_flag("detectors", default=",".join(defaults.detectors), help="short (channels 1, 2), long (3, 4)")
    _add_common(parser, defaults)
    parser.add_flag("stripes", type=float, default=defaults.stripes, help="rms of flat-field stripes")
    parser.add_flag(
        "residual_fringes", type=float, default=defaults.residual_fringes, help="amplitude of residual fringes"
    )
    _add_last(parser, defaults)


def _add_nirspec(parser: ArgumentParser) -> None:
    defaults = NirspecSettings()
    _add_first(parser, defaults)
    parser.add_flag("grating", default=",".join(defaults.grating), help=f"of {','.join(GRATINGS)}")
    parser.add_flag("filter", default=SUPPRESS, help="one for each grating (default: the usual one of each)")
    parser.add_flag("detectors", default=",".join(defaults.detectors), help="nrs1, nrs2")
    _add_common(parser, defaults)
    parser.add_flag("flicker", type=float, default=defaults.flicker, help="1/f noise; 1 is like the real detectors")
    _add_last(parser, defaults)


def _add_first(parser: ArgumentParser, defaults: Settings) -> None:
    parser.description = (
        f"Simulate a {defaults.mode.instrument}/{defaults.mode.label} observation: OUT/stage0, OUT/crds, OUT/kernels, "
        "OUT/truth, OUT/environment.sh."
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="directory to fill")
    parser.add_flag("target", default=defaults.target, help="planet or moon")
    parser.add_flag("start", metavar="UTC", default=defaults.start, help="start of the first exposure")


def _add_common(parser: ArgumentParser, defaults: Settings) -> None:
    parser.add_flag("dithers", type=int, default=defaults.dithers, help="number of dither positions")
    parser.add_flag("groups", type=int, default=defaults.groups, help="groups of each ramp")
    parser.add_flag(
        "field",
        default=SUPPRESS,
        help=f"middle of the field: {', '.join(FIELDS)} (default: limb; centre of small bodies)",
    )
    parser.add_flag("roll", metavar="DEG", type=float, default=defaults.roll, help="position angle of V3")
    parser.add_flag(
        "pointing_error",
        metavar="EAST,NORTH",
        type=_two_numbers,
        default=defaults.pointing_error,
        help="by how much the headers read too high on the sky, in arcsec; write --pointing_error=-0.3,0.2",
    )
    parser.add_flag("background", action="store_true", help="add a pair of background exposures")
    parser.add_flag("leakcal", action="store_true", help="add leakcal (imprint) exposures")
    parser.add_flag("scale", type=float, default=defaults.scale, help="brightness; above 1 more of it saturates")


def _add_last(parser: ArgumentParser, defaults: Settings) -> None:
    parser.add_flag("no_noise", action="store_true", help="no photon and read noise, no cosmic rays")
    parser.add_flag("no_cosmic_rays", action="store_true", help="no cosmic rays")
    parser.add_flag("seed", type=int, default=defaults.seed, help="of the scene and of all noise")
    parser.add_flag(
        "geometry",
        metavar="DIR",
        type=Path,
        default=SUPPRESS,
        help="reference files of the real instrument's geometry (distortion, wavelengths, ...)",
    )
    parser.add_flag("kernels", metavar="DIR", type=Path, default=SUPPRESS, help="real SPICE kernels")
    parser.add_flag("jobs", type=int, default=SUPPRESS, help="number of processes (default: one per core)")
    parser.add_flag("if_needed", action="store_true", help="do nothing where this observation is already complete")


def _two_numbers(text: str) -> tuple[float, float]:
    try:
        east, north = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not two numbers with a comma, like 0.35,-0.2") from error
    return east, north


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and simulate.

    Raises
    ------
    InputError
        If an option cannot be met.
    """
    options = vars(build_parser().parse_args(argv))
    from simulate.mrs_exposure import MRS
    from simulate.nirspec_exposure import NIRSPEC
    from simulate.observation import simulate_observation

    instrument = {"miri": MRS, "nirspec": NIRSPEC}[options.pop("instrument")]
    options["noise"] = not options.pop("no_noise")
    options["cosmic_rays"] = not options.pop("no_cosmic_rays")
    simulate_observation(instrument, options.pop("out"), report=lambda line: print(line, flush=True), **options)


if __name__ == "__main__":
    sys.exit(run_command(main))
