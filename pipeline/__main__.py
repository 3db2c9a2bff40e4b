"""`python -m pipeline status ROOT` and `python -m pipeline compare ROOT_A ROOT_B`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from command_line import ArgumentParser, run_command
from errors import DataRootError
from pipeline.runlog import DONE
from pipeline.status import format_status, root_status


def build_parser() -> ArgumentParser:
    """The parser of `python -m pipeline`."""
    parser = ArgumentParser(prog="python -m pipeline", description="Look at what pipelines have made.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    status = commands.add_parser("status", help="what is done, stale, missing and failed in a root")
    status.description = "Say what is done, stale, missing and failed in ROOT. Exit status 1 unless all is done."
    status.add_argument("root", metavar="ROOT", type=Path, help="data root")
    compare = commands.add_parser("compare", help="the cubes of two roots")
    compare.description = (
        "Compare the cubes that two roots have in common, such as reductions by two versions of jwst or with two CRDS "
        "contexts. Exit status 1 if one differs by more than the tolerances, or is there only once."
    )
    for name in ("root_a", "root_b"):
        compare.add_argument(name, metavar=name.upper(), type=Path, help="data root")
    compare.add_flag("nan", type=float, default=1e-4, help="share of voxels that may be NaN in one of them only")
    compare.add_flag("flux", type=float, default=1e-3, help="by how much the median ratio B / A may differ from 1")
    compare.add_flag("position", type=float, default=5.0, metavar="MAS", help="shift on the sky [milliarcsec]")
    compare.add_flag("headers", action="store_true", help="headers must not differ either")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 all well, 1 something is not, 2 bad input."""
    return run_command(_command, argv)


def _command(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    if arguments.command == "status":
        states, last = root_status(_existing(arguments.root))
        print(format_status(states, last))
        return int(any(state.state != DONE for state in states))
    # The engine knows no cubes, and this needs NumPy and Astropy.
    from cube_comparison import Tolerances, compare_roots

    tolerances = Tolerances(arguments.nan, arguments.flux, arguments.position, arguments.headers)
    text, alike = compare_roots(_existing(arguments.root_a), _existing(arguments.root_b), tolerances)
    print(text)
    return int(not alike)


def _existing(root: Path) -> Path:
    if not root.is_dir():
        raise DataRootError(f"{root} is not a directory: give the folder that holds stage0.")
    return root.resolve()


if __name__ == "__main__":
    sys.exit(main())
