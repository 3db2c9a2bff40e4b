"""Bad FITS files made from good ones, and every step driven over them: `python tests/bad_fits.py --files 1000`.

A step's answer to a bad file is a product that is whole and sound, or one `InputError` that names the file. Everything
else (another exception, a product that is not sound, no end) is a fault, and is told.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from astropy.io import fits

BLOCK = 2880
SECONDS = 60
OFFSETS = ((0.0, 7.5), (0.3, 7.4), (-0.3, 7.6), (0.2, 7.7))
RANGES = {"LAT": (-90, 90), "LON": (0, 360), "EMISSION": (0, 180), "RA": (0, 360), "DEC": (-90, 90)}
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
def time_limit(seconds: int) -> Iterator[None]:
    """Raise `NoEnd` after some time."""

    def stop(number, frame) -> None:
        raise NoEnd

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fault(step: Callable[[Path, Path], object], bad: Path, out: Path) -> str | None:
    """What is wrong with how a step takes a bad file; None if nothing is."""
    from errors import FileFormatError, InputError

    others = set(out.parent.iterdir())
    try:
        with time_limit(SECONDS), warnings.catch_warnings(), np.errstate(all="ignore"):
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
        return unsound(out, bad)
    finally:
        left = set(out.parent.iterdir()) - others
        for path in left:
            with suppress(OSError):
                path.unlink()


def unsound(path: Path, bad: Path) -> str | None:
    """What is wrong with a product; None if nothing is."""
    from cubes import read_cube
    from flat_files import read_flat

    if not path.exists():
        pictures = [path.with_suffix(suffix) for suffix in (".png", ".mp4")]
        return None if any(picture.exists() and picture.stat().st_size > 1000 for picture in pictures) else "no product"
    try:
        planes = images_of(path)
        if path.name.endswith("_uncal.fits"):
            return None if planes["SCI"].ndim == 4 else "no raw exposure"
        read_cube(path) if "SCI" in planes else read_flat(path)
    except Exception:
        return f"can not be read:\n{traceback.format_exc()}"
    before = images_of(bad)
    for name, (low, high) in RANGES.items():
        plane = planes.get(name, np.zeros(1))
        # What a step only passes on it need not look at.
        passed_on = name in before and np.array_equal(plane, before[name], equal_nan=True)
        if not passed_on and not np.all((plane >= low) & (plane <= high) | np.isnan(plane)):
            return f"{name} out of its range"
    return None


def images_of(path: Path) -> dict[str, np.ndarray]:
    """The images in a file, good or bad, by their names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(path, memmap=False) as hdul:
            return {hdu.name: hdu.data for hdu in hdul if hdu.is_image and hdu.data is not None}


def cube_steps(goods: Sequence[Path], kernels: Path) -> dict[str, Callable[[Path, Path], object]]:
    """Every step from cubes, as functions of a bad file and an output; `goods` are four dithers, navigated."""
    from construct_flat_field import construct_flat_field_files
    from defringe import defringe_1d_file
    from desaturate import desaturate_files
    from despike import despike_file
    from flat_field import flat_field_combined_file, flat_field_file
    from navigate import navigate_file
    from psf_correct import psf_correct_file
    from summary_animation import animate_files
    from summary_plots import plot_file

    flat = good_flat(goods)
    return {
        "navigate": lambda bad, out: navigate_file(bad, out, kernel_path=kernels),
        "navigate with a fit": lambda bad, out: navigate_file(bad, out, kernel_path=kernels, fit_pointing=True),
        "psf_correct": lambda bad, out: psf_correct_file(bad, out, kernel_path=kernels),
        "desaturate": lambda bad, out: desaturate_files([bad, short_ramp(goods[0])], out),
        "desaturate, the short one bad": lambda bad, out: desaturate_files([goods[0], bad], out),
        "construct_flat_field": lambda bad, out: construct_flat_field_files([bad, *goods[1:]], out),
        "flat_field": lambda bad, out: flat_field_file(bad, out, flat_path=flat),
        "flat_field, combined": lambda bad, out: flat_field_combined_file(
            bad, out, flat_path=flat, dither_paths=goods[1:]
        ),
        "despike": despike_file,
        "defringe_1d": defringe_1d_file,
        "plot": lambda bad, out: plot_file(bad, out.with_suffix(".png"), kernel_path=kernels, dpi=20),
        "animate": lambda bad, out: animate_files(
            [bad, goods[1]], out.with_suffix(".mp4"), kernel_path=kernels, dpi=40, wavelength_step=8
        ),
    }


def flat_steps(goods: Sequence[Path]) -> dict[str, Callable[[Path, Path], object]]:
    """Every step from flats, as functions of a bad flat and an output."""
    from construct_flat_field import merge_flat_files
    from flat_field import flat_field_file

    return {
        "merge flats": lambda bad, out: merge_flat_files([bad, good_flat(goods)], out),
        "flat_field, the flat bad": lambda bad, out: flat_field_file(goods[0], out, flat_path=bad),
    }


def good_flat(goods: Sequence[Path]) -> Path:
    """A flat made of the dithers."""
    from construct_flat_field import construct_flat_field_files

    path = goods[0].with_name("good_flat.fits")
    if not path.exists():
        construct_flat_field_files(goods, path)
    return path


def short_ramp(good: Path) -> Path:
    """The same cube from a ramp with fewer groups."""
    path = good.with_name("short_" + good.name)
    if not path.exists():
        with fits.open(good) as hdul:
            hdul[0].header["NGROUPS"] -= 2
            hdul.writeto(path)
    return path


def exposure_steps() -> dict[str, Callable[[Path, Path], object]]:
    """What is done with a raw exposure before `jwst` sees it."""
    from errors import FileFormatError
    from observations import check_complete, read_exposure
    from remove_groups import remove_groups_file

    def check(bad: Path, out: Path) -> None:
        read_exposure(bad)
        check_complete(bad)
        raise FileFormatError(f"{bad} is taken for good, which is no fault of a header's")

    return {"check": check, "remove_groups": lambda bad, out: remove_groups_file(bad, out, groups=1)}


def good_cubes(directory: Path) -> tuple[list[Path], Path]:
    """Four small navigated cubes of dithers, and the folder of their kernels."""
    from navigate import navigate_file
    from simulate.cubes import simulate_cube
    from simulate.kernels import write_kernels
    from simulate.scene import Scene

    kernels = directory / "kernels"
    write_kernels(kernels, "2022-11-12", "2022-11-15", "saturn")
    scene = Scene("saturn", kernels)
    paths = []
    for number, offset in enumerate(OFFSETS, start=1):
        path = directory / f"d{number}_s3d_nav.fits"
        options = {"shape": (15, 13), "n_wave": 16, "noise": 300.0, "seed": number, "dither": number, "dithers": 4}
        simulate_cube(scene, "2022-11-13T10:00:00", path, offset=offset, **options)
        navigate_file(path, path, kernel_path=kernels)
        paths.append(path)
    return paths, kernels


def small_exposure(path: Path) -> Path:
    """A raw exposure with the header of a MIRI one, and a small detector."""
    data = np.arange(5 * 30 * 40, dtype=np.uint16).reshape(1, 5, 30, 40)
    primary = fits.PrimaryHDU()
    primary.header.update(
        TELESCOP="JWST", INSTRUME="MIRI", DETECTOR="MIRIFUSHORT", EXP_TYPE="MIR_MRS", CHANNEL="12", BAND="SHORT",
        NGROUPS=5, NINTS=1, PATT_NUM=1, OBSERVTN="330", VISIT="001", ACT_ID="01", EXPOSURE="1", TARGPROP="SATURN",
        BKGDTARG=False, IS_IMPRT=False, EXPSTART=59896.4, EXPMID=59896.4, EXPEND=59896.41, EFFINTTM=13.9, EFFEXPTM=13.9,
        DURATION=13.9, TGROUP=2.8, TFRAME=2.8, NFRAMES=1, GROUPGAP=0, **{"DATE-OBS": "2022-11-13"},
    )  # fmt: skip
    fits.HDUList([primary, fits.ImageHDU(data, name="SCI")]).writeto(path)
    return path


def drive(
    steps: Mapping[str, Callable[[Path, Path], object]], good: Path, directory: Path, seed: int, number: int
) -> tuple[list[str], Counter]:
    """Drive steps over bad files; gives the faults, and how often each step met which kind of file."""
    faults, counts = [], Counter()
    for bad, what in bad_files(good, directory, seed, number):
        for name, step in steps.items():
            counts[name] += 1
            found = fault(step, bad, directory / "out" / f"product{'_uncal' if 'uncal' in good.name else '_s3d'}.fits")
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
        (directory / "out").mkdir()
        goods, kernels = good_cubes(directory)
        every = [(cube_steps(goods, kernels), goods[0])]
        every.append((flat_steps(goods), good_flat(goods)))
        every.append((exposure_steps(), small_exposure(directory / "jw1_uncal.fits")))
        total, faults = Counter(), []
        for steps, good in every:
            chosen = {name: step for name, step in steps.items() if not arguments.steps or name in arguments.steps}
            found, counts = drive(chosen, good, directory, arguments.seed, arguments.files if chosen else 0)
            faults += found
            total += counts
    print(f"{sum(total.values())} calls of {len(total)} steps, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(main())
