"""The command line of the instruments' pipelines."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from command_line import ArgumentParser, run_command
from errors import OptionError
from instrument_pipeline import run_pipeline
from instruments import SWITCHES, Instrument
from pipeline.cleaning import describe_sizes, remakeable_files, remove_files
from pipeline.settings_file import read_settings
from pipeline_options import WEIGHTINGS
from reduction import Options

# What a run also writes among its settings, and no flag says.
FACTS = ("instrument", "steps")
# Directories whose files are steps on the way to cubes.
INTERMEDIATES = ("groups", "stage1", "stage2")


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
    parser.add_flag("config", metavar="FILE.toml", help="take flags from this file; those given here win")
    parser.add_flag(
        "clean",
        choices=["intermediates"],
        help=f"remove what can be made again from {', '.join(INTERMEDIATES)}, after showing its size, and stop",
    )
    parser.add_flag("yes", action="store_true", help="remove it without asking")
    parser.add_flag("overwrite", action="store_true", help="make everything anew, also what is done")
    parser.add_flag("dry_run", action="store_true", help="print what would be done and stop")
    parser.add_flag("check", action="store_true", help="check what the run needs, print a table and stop")
    for name in instrument.switches:
        add_switch(parser, name, getattr(Options, name), SWITCHES[name])
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
    parser.add_flag(
        "cube_build_weighting",
        default=Options.cube_build_weighting,
        metavar="NAME",
        help=f"one of {', '.join(WEIGHTINGS)}",
    )
    parser.add_flag("groups_to_use", type=_numbers, metavar="N,N,...", help="ramp lengths for --desaturate (all)")
    parser.add_flag(
        "flat_data_path",
        metavar="PATH",
        help="flat file, folder of flats, or name with {channel} and {band} or {grating} and {filter}",
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


def _parse(parser: ArgumentParser, argv: Sequence[str] | None) -> dict[str, Any]:
    """Flags of the command line, on top of those of the file that `--config` names."""
    arguments = vars(parser.parse_args(argv))
    path = arguments.pop("config")
    if path is not None:
        known = arguments.keys() - {"root_path", "clean", "yes", "dry_run", "check"}
        line = [arguments["root_path"]]
        for name, value in read_settings(path, known, FACTS).items():
            line += _as_flags(name, value, arguments)
        parser.set_defaults(**vars(parser.parse_args(line)))
        arguments = vars(parser.parse_args(argv))
        del arguments["config"]
    return arguments


def _as_flags(name: str, value: Any, arguments: Mapping[str, Any]) -> list[str]:
    """A value of a settings file as it would be written on the command line."""
    if name in SWITCHES and value in (True, False, "both"):
        return [f"--{ {True: '', False: 'no_', 'both': 'both_'}[value] }{name}"]
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    if isinstance(value, list):
        texts = [str(item) for item in value]
        return [f"--{name}", *texts] if isinstance(arguments[name], list) else [f"--{name}={','.join(texts)}"]
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"]


def clean_intermediates(root: Path, yes: bool) -> int:
    """Remove what can be made again from the early stages of a root, after asking.

    Returns
    -------
    int
        Exit status: 0, or 1 if it was not to be removed.
    """
    paths = remakeable_files(root.expanduser().resolve(), INTERMEDIATES)
    if not paths:
        print(f"There is nothing in {root} that could be made again.")
        return 0
    print(describe_sizes(root.expanduser().resolve(), paths))
    if not yes and not sys.stdin.isatty():
        raise OptionError("--clean: nothing is removed without a yes; add --yes where nobody can be asked.")
    if not yes and input("Remove these files? [y/N] ").strip().lower() not in ("y", "yes"):
        return 1
    remove_files(root.expanduser().resolve(), paths)
    print("Removed. Later steps go on from what they have: give --start_step navigate, or all is made again.")
    return 0


def main(instrument: Instrument, program: str, argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 all well, 1 something failed, 2 bad input or a failed check."""

    def command(argv: Sequence[str] | None) -> int:
        arguments = _parse(make_parser(instrument, program), argv)
        clean, yes = arguments.pop("clean"), arguments.pop("yes")
        if clean is not None:
            return clean_intermediates(Path(arguments["root_path"]), yes)
        line = [program, *(sys.argv[1:] if argv is None else argv)]
        result = run_pipeline(instrument, arguments.pop("root_path"), **arguments, command=line)
        return 0 if result is None else result.exit_status

    return run_command(command, argv)
