"""The command-line manners that all commands share.

Flags are accepted with `-` and with `_` (`--skip-steps`, `--skip_steps`); an `InputError` is printed as its one
sentence and ends with status 2. Ctrl-C ends with status 130.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from threadpoolctl import threadpool_limits

from errors import INTERRUPT_STATUS, InputError


class ArgumentParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that shows defaults and takes `-` and `_` in long flags alike."""

    def __init__(self, **kwargs) -> None:
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def add_flag(self, name: str, **kwargs) -> argparse.Action:
        """Add the option `--name` under both spellings; its attribute is `name` with underscores."""
        dashed, underscored = f"--{name.replace('_', '-')}", f"--{name.replace('-', '_')}"
        spellings = [dashed] if dashed == underscored else [underscored, dashed]
        return self.add_argument(*spellings, **kwargs)


def run_command(
    command: Callable[[Sequence[str] | None], int | Mapping[str, Any] | None], argv: Sequence[str] | None = None
) -> int:
    """Call `command(argv)` and return its exit status.

    It runs with one thread of BLAS and OpenMP, as tasks of a pipeline do: more of them round sums in another order, and
    wait for one another on a busy machine. The status is 2 after printing the message of an `InputError`, 130 after
    Ctrl-C.

    A command that returns facts instead of a status has them told: 'notes' on the output, 'warnings' as errors are.
    """
    try:
        with threadpool_limits(1):
            result = command(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPT_STATUS
    if not isinstance(result, Mapping):
        return result or 0
    for note in result["notes"]:
        print(note)
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    return 0
