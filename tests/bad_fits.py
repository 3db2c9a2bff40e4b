"""Bad FITS files made from good ones, and every step driven over them: `python tests/bad_fits.py --files 1000`.

A step's answer to a bad file is a product that is whole and sound, or one `InputError` that names the file. Everything
else (another exception, a product that is not sound (`soundness`), no end) is a fault, and is told.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from astropy.io import fits
from bad_fits_cases import Case, all_cases
from soundness import unsound

BLOCK = 2880
# Of processor time; and as a machine may be busy, of any.
SECONDS = 60
PATIENCE_S = 1200
ABSURD = (
    *("", "../../../../tmp/x", "$\\frac{", "<script>alert(1)</script>", "x" * 68, "\\", "%s{0}", "NaN", "N/A", "'"),
    *(0, -1, 1, 99, 2**31, -(2**62), 1e300, -1e300, 1e-300, 0.0, -0.5, True, False),
)


# --- making them ----------------------------------------------------------------------------------------------------


def truncate(good: Path, bad: Path, generator: random.Random) -> str:
    """Cut at a block's boundary, seldom within a block."""
    content = good.read_bytes()
    size = BLOCK * generator.randrange(len(content) // BLOCK)
    size += generator.randrange(BLOCK) if generator.random() < 0.2 else 0
    bad.write_bytes(content[:size])
    return f"{size} of {len(content)} bytes"


def flip_header(good: Path, bad: Path, generator: random.Random) -> str:
    """Change some bits of one header."""
    content = bytearray(good.read_bytes())
    with fits.open(good) as hdul:
        info = generator.choice([hdu.fileinfo() for hdu in hdul])
    places = [generator.randrange(info["hdrLoc"], info["datLoc"]) for _ in range(generator.choice((1, 1, 3, 20)))]
    for place in places:
        content[place] ^= 1 << generator.randrange(8)
    bad.write_bytes(content)
    return f"bits changed at {places}"


def flip_data(good: Path, bad: Path, generator: random.Random) -> str:
    """Change some bytes of the data."""
    content = bytearray(good.read_bytes())
    with fits.open(good) as hdul:
        info = generator.choice([info for info in (hdu.fileinfo() for hdu in hdul) if info["datSpan"]])
    for _ in range(generator.choice((1, 100))):
        content[info["datLoc"] + generator.randrange(info["datSpan"])] = generator.randrange(256)
    bad.write_bytes(content)
    return f"bytes changed from {info['datLoc']}"


def reshape(good: Path, bad: Path, generator: random.Random) -> str:
    """Give an extension another shape, number of axes or type."""
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "a row less": lambda data: data[..., :-1, :],
        "one element": lambda data: data.reshape(-1)[:1].reshape((1,) * data.ndim),
        "one plane": lambda data: data[:1],
        "an axis less": lambda data: data[0],
        "an axis more": lambda data: data[None],
        "turned": lambda data: np.ascontiguousarray(data.T),
        "other type": lambda data: data.astype(generator.choice(("i2", "f8", "u1"))),
    }
    name = generator.choice(sorted(changes))
    with fits.open(good) as hdul:
        hdu = generator.choice([hdu for hdu in hdul if hdu.is_image and hdu.header["NAXIS"] > 1])
        with np.errstate(all="ignore"):
            hdu.data = changes[name](hdu.data)
        hdul.writeto(bad)
    return f"{hdu.name}: {name}"


def remove(good: Path, bad: Path, generator: random.Random) -> str:
    """Leave some extensions out."""
    with fits.open(good) as hdul:
        names = [hdu.name for hdu in hdul[1:]]
        gone = generator.sample(names, generator.choice((1, 1, 3)) if len(names) > 3 else 1)
        for name in gone:
            del hdul[name]
        hdul.writeto(bad)
    return f"without {', '.join(gone)}"


def fill(good: Path, bad: Path, generator: random.Random) -> str:
    """Fill an extension with NaN, infinity, zeros or huge numbers."""
    with fits.open(good) as hdul:
        images = [hdu for hdu in hdul if hdu.is_image and hdu.data is not None and hdu.data.size]
        chosen = images if generator.random() < 0.2 else [generator.choice(images)]
        value = generator.choice((np.nan, np.nan, np.inf, -np.inf, 0.0, -1.0, 1e38))
        for hdu in chosen:
            integer = hdu.data.dtype.kind in "iu"
            hdu.data = np.full_like(hdu.data, np.iinfo(hdu.data.dtype).max if integer else value)
        hdul.writeto(bad)
    return f"{', '.join(hdu.name for hdu in chosen)} full of {value}"


def rewrite(good: Path, bad: Path, generator: random.Random) -> str:
    """Give some keywords absurd values, or take them out."""
    done = []
    with fits.open(good) as hdul:
        for _ in range(generator.choice((1, 1, 1, 4))):
            header = hdul[0].header if generator.random() < 0.5 or len(hdul[1].header) < 15 else hdul[1].header
            structural = ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "PCOUNT", "GCOUNT", "EXTEND", "EXTNAME", "TFORM")
            key = generator.choice([key for key in header if key and not key.startswith((*structural, "COMMENT"))])
            if generator.random() < 0.3:
                header.remove(key)
                done.append(f"{key} gone")
            else:
                value = generator.choice(ABSURD)
                with suppress(ValueError):
                    header[key] = value
                    done.append(f"{key} = {value!r}")
        hdul.writeto(bad, output_verify="ignore")
    return ", ".join(done)


KINDS = (truncate, truncate, flip_header, flip_header, flip_data, reshape, remove, fill, rewrite, rewrite, rewrite)


def bad_files(good: Path, directory: Path, seed: int, number: int) -> Iterator[tuple[Path, str]]:
    """Bad files made from a good one, each with what is bad; each is removed when the next is asked for."""
    for count in range(number):
        generator = random.Random(f"{seed} {count}")
        kind = generator.choice(KINDS)
        path = directory / f"bad{count}{''.join(good.suffixes) if '_' not in good.name else '_' + good.name}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            what = kind(good, path, generator)
        yield path, f"{kind.__name__}: {what}"
        path.unlink()


# --- driving the steps over them ------------------------------------------------------------------------------------


class NoEnd(BaseException):
    """A step took too long."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise `NoEnd` after some time."""

    def stop(number, frame) -> None:
        raise NoEnd

    limits = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, PATIENCE_S))
    before = [signal.signal(number, stop) for number, *_ in limits]
    for _, timer, seconds in limits:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(limits, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def fault(step: Callable[[Path, Path], object], bad: Path, out: Path, source: Path | None = None) -> str | None:
    """What is wrong with how a step takes a bad file; None if nothing is.

    Parameters
    ----------
    step
        Takes the bad file and the output.
    bad, out
        These.
    source
        The file that the product is a version of, if that is not the bad one.
    """
    from errors import FileFormatError, InputError

    others = set(out.parent.iterdir())
    try:
        with time_limit(), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            step(bad, out)
    except InputError as error:
        text = str(error)
        # Where several files do not fit together, it may be any of them.
        if bad.name not in text and isinstance(error, FileFormatError):
            return f"does not name the file: {type(error).__name__}: {text}"
        return "leaves a product beside an error" if out.exists() else None
    except NoEnd:
        return f"no end in {SECONDS} s"
    except Exception:
        return f"not an InputError:\n{traceback.format_exc()}"
    else:
        try:
            return unsound(out, bad, source or bad)
        except Exception:
            return f"a product that can not be judged:\n{traceback.format_exc()}"
    finally:
        for path in set(out.parent.iterdir()) - others:
            if not path.is_dir():
                path.unlink()


def drive(cases: Mapping[str, Case], directory: Path, seed: int, number: int) -> tuple[list[str], Counter]:
    """Drive steps over bad files made of one good; gives the faults, and how often each step met one."""
    faults, counts = [], Counter()
    (good,) = {case.good for case in cases.values()}
    for bad, what in bad_files(good, directory, seed, number):
        for name, case in cases.items():
            counts[name] += 1
            found = fault(case.step, bad, directory / "out" / f"product_{case.suffix}.fits", case.source)
            if found is not None:
                faults.append(f"{name}, seed {seed}, {bad.name}: {what}\n    {found}")
                print(faults[-1], flush=True)
    return faults, counts


def main() -> int:
    """Drive every step over many bad files, and tell the faults."""
    parser = argparse.ArgumentParser(description="Drive every step over bad FITS files made from good ones.")
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", nargs="*", help="only these")
    arguments = parser.parse_args()
    os.environ.setdefault("MPLBACKEND", "Agg")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        cases = all_cases(directory)
        chosen = {name: case for name, case in cases.items() if not arguments.steps or name in arguments.steps}
        total, faults = Counter(), []
        for good in dict.fromkeys(case.good for case in chosen.values()):
            own = {name: case for name, case in chosen.items() if case.good == good}
            found, counts = drive(own, directory, arguments.seed, arguments.files)
            faults += found
            total += counts
    print(f"{sum(total.values())} calls of {len(total)} steps, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(main())
