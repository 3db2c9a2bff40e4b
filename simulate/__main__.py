"""Simulated observations on the command line: `python -m simulate miri OUT [options]`."""

import sys
from argparse import SUPPRESS, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from command_line import ArgumentParser, run_command
from simulate.mrs_plan import FIELDS, Settings

DEFAULTS = Settings()


def build_parser() -> ArgumentParser:
    """The parser of `python -m simulate`."""
    parser = ArgumentParser(
        prog="python -m simulate",
        description="Make a small JWST observation of a planet with known truth, with everything needed to reduce it.",
    )
    instruments = parser.add_subparsers(dest="instrument", required=True, metavar="INSTRUMENT")
    _add_miri(instruments.add_parser("miri", help="MIRI medium-resolution spectrometer (MRS)"))
    return parser


def _add_miri(parser: ArgumentParser) -> None:
    parser.description = (
        "Simulate a MIRI/MRS observation: OUT/stage0, OUT/crds, OUT/kernels, OUT/truth, OUT/environment.sh."
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="directory to fill")
    parser.add_flag("target", default=DEFAULTS.target, help="planet or moon")
    parser.add_flag("start", metavar="UTC", default=DEFAULTS.start, help="start of the first exposure")
    parser.add_flag("bands", default=",".join(DEFAULTS.bands), help="of short,medium,long")
    parser.add_flag("detectors", default=",".join(DEFAULTS.detectors), help="short (channels 1, 2), long (3, 4)")
    parser.add_flag("dithers", type=int, default=DEFAULTS.dithers, help="number of dither positions")
    parser.add_flag("groups", type=int, default=DEFAULTS.groups, help="groups of each ramp")
    parser.add_flag(
        "field",
        default=SUPPRESS,
        help=f"middle of the field: {', '.join(FIELDS)} (default: limb; centre of small bodies)",
    )
    parser.add_flag("roll", metavar="DEG", type=float, default=DEFAULTS.roll, help="position angle of V3")
    parser.add_flag(
        "pointing_error",
        metavar="EAST,NORTH",
        type=_two_numbers,
        default=DEFAULTS.pointing_error,
        help="by how much the headers read too high on the sky, in arcsec; write --pointing_error=-0.3,0.2",
    )
    parser.add_flag("background", action="store_true", help="add a pair of background exposures")
    parser.add_flag("leakcal", action="store_true", help="add leakcal (imprint) exposures")
    parser.add_flag("scale", type=float, default=DEFAULTS.scale, help="brightness; above 1 more of it saturates")
    parser.add_flag("stripes", type=float, default=DEFAULTS.stripes, help="rms of flat-field stripes")
    parser.add_flag(
        "residual_fringes", type=float, default=DEFAULTS.residual_fringes, help="amplitude of residual fringes"
    )
    parser.add_flag("no_noise", action="store_true", help="no photon and read noise, no cosmic rays")
    parser.add_flag("no_cosmic_rays", action="store_true", help="no cosmic rays")
    parser.add_flag("seed", type=int, default=DEFAULTS.seed, help="of the scene and of all noise")
    parser.add_flag(
        "geometry",
        metavar="DIR",
        type=Path,
        default=SUPPRESS,
        help="real distortion, specwcs, regions, wavelengthrange files",
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
    arguments = build_parser().parse_args(argv)
    _simulate_miri(arguments)


def _simulate_miri(arguments: Namespace) -> None:
    from simulate.miri import simulate_miri

    options = vars(arguments)
    options.pop("instrument")
    options["noise"] = not options.pop("no_noise")
    options["cosmic_rays"] = not options.pop("no_cosmic_rays")
    simulate_miri(options.pop("out"), report=lambda line: print(line, flush=True), **options)


if __name__ == "__main__":
    sys.exit(run_command(main))
