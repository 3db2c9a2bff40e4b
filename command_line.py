"""The command-line manners that all commands share.

Flags are accepted with `-` and with `_` (`--skip-steps`, `--skip_steps`); an `InputError` is printed as its one
sentence and ends with status 2.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from errors import InputError


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


def run_command(command: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Call `command(argv)`; return its exit status, or 2 after printing the message of an `InputError`."""
    try:
        return command(argv) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
