"""Errors that a user can do something about.

A message is one sentence that names the file, the value and the remedy. Commands print it without a traceback and
exit with status 2; in a notebook it is an ordinary exception.
"""

# Of a command that Ctrl-C ended: 128 + SIGINT, as shells have it.
INTERRUPT_STATUS = 130


class InputError(Exception):
    """Something in the user's input or set-up is wrong, and the message says what and how to mend it."""


class FileFormatError(InputError):
    """A file is missing, is not FITS, is truncated or lacks what is needed from it."""


class KernelError(InputError):
    """A SPICE kernel that is needed is missing or does not cover the date."""


class DataRootError(InputError):
    """The data root holds no data that this pipeline can use."""


class OptionError(InputError):
    """An option has a name or a value that is not known."""


class CrdsError(InputError):
    """The CRDS set-up is incomplete, or reference files can't be found."""


class PreflightError(InputError):
    """Something that a run needs is missing, as was found before its first task."""
