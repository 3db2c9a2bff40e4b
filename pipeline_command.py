"""The command line of the instruments' pipelines."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from command_line import ArgumentParser, run_command
from errors import OptionError
from instrument_pipeline import WEIGHTINGS, run_pipeline
from instruments import Instrument

# Default and help of each variant switch.
SWITCHES: dict[str, tuple[bool | str, str]] = {
    "background_subtract": ("both", "subtract the background, where there is one"),
    "defringe": (False, "correct residual fringes of the calibrated exposures (2-D)"),
    "defringe_1d": ("both", "correct residual fringes of the cubes' spectra (1-D)"),
    "correct_psf": (False, "divide by the darkening of the limb by the PSF"),
}


def add_switch(parser: ArgumentParser, name: str, default: bool | str, help_text: str) -> None:
    """Add `--name`, `--no-name` and `--both-name` for a variant: yes, no or both."""
    group = parser.add_mutually_exclusive_group()
    for prefix, value in (("", True), ("no_", False), ("both_", "both")):
        flag = f"{prefix}{name}"
        suffix = " (default)" if value == default else ""
        text = {True: help_text, False: f"not {name}", "both": f"with and without {name}"}[value] + suffix
        group.add_argument(
            f"--{flag}",
            f"--{flag.replace('_', '-')}",
            dest=name,
            action="store_const",
            const=value,
            default=argparse.SUPPRESS,
            help=text,
        )
    parser.set_defaults(**{name: default})


def make_parser(instrument: Instrument, program: str) -> ArgumentParser:
    """The command line of an instrument's pipeline."""
    steps = ", ".join(instrument.step_names)
    parser = ArgumentParser(
        prog=program,
        description=f"Reduce JWST {instrument.name} integral-field exposures of a solar-system target: "
        "ROOT/stage0/*_uncal.fits become navigated cubes and plots in ROOT.",
        epilog=f"Steps, in order: {steps}. Flags may be written with '-' or '_'.",
    )
    parser.add_argument("root_path", metavar="ROOT", help="folder that holds stage0")
    parser.add_flag("skip_steps", nargs="+", metavar="STEP", default=[], help="steps to leave out")
    parser.add_flag("start_step", metavar="STEP", help="first step to run")
    parser.add_flag("end_step", metavar="STEP", help="last step to run")
    parser.add_flag(
        "parallel",
        nargs="?",
        type=_fraction,
        const=True,
        default=False,
        metavar="FRACTION",
        help="run tasks side by side on this fraction of the cores (all where none is given)",
    )
    parser.add_flag(
        "cluster", metavar="NAME", help="run on a Dask cluster: tcp://HOST:PORT of its scheduler, slurm, local"
    )
    parser.add_flag("workers", type=int, metavar="N", help="workers to ask SLURM for; jobs at once on a local cluster")
    parser.add_flag("memory_limit", metavar="SIZE", help="what tasks on one machine may need together, such as 16GB")
    loudness = parser.add_mutually_exclusive_group()
    for name, text in (("quiet", "say only what went wrong"), ("verbose", "say a line for each task")):
        loudness.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_flag("overwrite", action="store_true", help="make everything anew, also what is done")
    parser.add_flag("dry_run", action="store_true", help="print what would be done and stop")
    for name in instrument.switches:
        add_switch(parser, name, *SWITCHES[name])
    parser.add_flag(
        "desaturate",
        nargs="?",
        const=True,
        default=False,
        type=_desaturation,
        metavar="ramp",
        help="recover saturated voxels from shorter ramps, or (ramp) choose the groups of each pixel before the fit",
    )
    parser.add_flag("background_path", metavar="ROOT", help="root of the reduced background observation")
    parser.add_flag("cube_build_weighting", default="drizzle", metavar="NAME", help=f"one of {', '.join(WEIGHTINGS)}")
    parser.add_flag("groups_to_use", type=_numbers, metavar="N,N,...", help="ramp lengths for --desaturate (all)")
    parser.add_flag(
        "flat_data_path", metavar="PATH", help="flat file, folder of flats or name with {channel} and {band}"
    )
    parser.add_flag(
        "construct_flats", action="store_true", help="make flats of this observation's dithers and use them"
    )
    parser.add_flag("basic_navigation", action="store_true", help="only RA and Dec backplanes; needs no SPICE kernels")
    parser.add_flag("fit_pointing", action="store_true", help="find the disc in each cube and correct its pointing")
    parser.add_flag(
        "step_kwargs",
        type=_json_object,
        default={},
        metavar="JSON",
        help='parameters of steps: {"stage1": {"jump": {"skip": true}}, "navigate": {"ra_offset": 0.1}}',
    )
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(f"--groups_to_use: {text!r} is no list of numbers; write 1,2,3.") from error


def _desaturation(text: str) -> str:
    if text != "ramp":
        raise OptionError(f"--desaturate: {text!r} is unknown; give nothing or 'ramp'.")
    return text


def _fraction(text: str) -> float | bool:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise OptionError(f"--parallel: {text!r} is no fraction of the cores; give a number above 0 and up to 1.")
    return value


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise OptionError(f"--step_kwargs: {text!r} is not JSON ({error}); put names in double quotes.") from error
    if not isinstance(value, dict):
        raise OptionError(f'--step_kwargs: {text!r} is no JSON object; write {{"step": {{"name": value}}}}.')
    return value


def main(instrument: Instrument, program: str, argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 all well, 1 something failed, 2 bad input."""

    def command(argv: Sequence[str] | None) -> int:
        arguments = vars(make_parser(instrument, program).parse_args(argv))
        line = [program, *(sys.argv[1:] if argv is None else argv)]
        result = run_pipeline(instrument, arguments.pop("root_path"), **arguments, command=line)
        return 0 if result is None else result.exit_status

    return run_command(command, argv)
