"""Every step as a function of a bad file, and the good files that bad ones are made from."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

OFFSETS = ((0.0, 7.5), (0.3, 7.4), (-0.3, 7.6), (0.2, 7.7))


def cube_steps(goods: Sequence[Path], kernels: Path) -> dict[str, Callable[[Path, Path], object]]:
    """Every step from cubes, as functions of a bad file and an output; `goods` are four dithers, navigated."""
    from construct_flat_field import construct_flat_field_files
    from cube_comparison import compare_cubes
    from defringe import defringe_1d_file
    from desaturate import desaturate_files
    from despike import despike_file
    from flat_field import flat_field_combined_file, flat_field_file
    from navigate import navigate_file
    from psf_correct import psf_correct_file
    from report_cubes import summarise_files
    from summary_animation import animate_files
    from summary_plots import plot_file
    from visit_pointing import fit_visit_pointing

    def compare(bad: Path, out: Path) -> None:
        out.with_suffix(".json").write_text(json.dumps(vars(compare_cubes(goods[1], bad))))

    flat = good_flat(goods)
    return {
        "navigate": lambda bad, out: navigate_file(bad, out, kernel_path=kernels),
        "navigate with a fit": lambda bad, out: navigate_file(bad, out, kernel_path=kernels, fit_pointing=True),
        "psf_correct": lambda bad, out: psf_correct_file(bad, out, kernel_path=kernels),
        "desaturate": lambda bad, out: desaturate_files([bad, other_ramp(goods[0], -2)], out),
        "desaturate, the short one bad": lambda bad, out: desaturate_files([other_ramp(goods[0], 2), bad], out),
        "construct_flat_field": lambda bad, out: construct_flat_field_files([bad, *goods[1:]], out),
        "flat_field": lambda bad, out: flat_field_file(bad, out, flat_path=flat),
        "flat_field, combined": lambda bad, out: flat_field_combined_file(
            bad, out, flat_path=flat, dither_paths=goods[1:]
        ),
        "flat_field, a dither bad": lambda bad, out: flat_field_combined_file(
            goods[1], out, flat_path=flat, dither_paths=[bad, *goods[2:]]
        ),
        "visit_pointing": lambda bad, out: fit_visit_pointing(
            [bad, goods[1]], out.with_suffix(".ecsv"), kernel_path=kernels
        ),
        "report": lambda bad, out: summarise_files([goods[0], bad], out.with_suffix(".json")),
        "compare": compare,
        "despike": despike_file,
        "defringe_1d": defringe_1d_file,
        "defringe_1d, the short one bad": lambda bad, out: defringe_1d_file(
            other_ramp(goods[0], 2), out, shared_lines=True, shorter_paths=[bad]
        ),
        "plot": lambda bad, out: plot_file(bad, out.with_suffix(".png"), kernel_path=kernels, dpi=20),
        "animate": lambda bad, out: animate_files(
            [bad, goods[1]], out.with_suffix(".mp4"), kernel_path=kernels, dpi=40, wavelength_step=8
        ),
    }


def flat_steps(goods: Sequence[Path]) -> dict[str, Callable[[Path, Path], object]]:
    """Every step from flats, as functions of a bad flat and an output."""
    from flat_field import flat_field_file
    from flat_merging import merge_flat_files

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


def other_ramp(good: Path, more: int) -> Path:
    """The same cube from a ramp with so many more groups."""
    path = good.with_name(f"{more:+}_groups_{good.name}")
    if not path.exists():
        with fits.open(good) as hdul:
            hdul[0].header["NGROUPS"] += more
            hdul.writeto(path)
    return path


def calibrated_steps(goods: Sequence[Path]) -> dict[str, Callable[[Path, Path], object]]:
    """Every step from calibrated exposures, as functions of a bad one; `goods` are three dithers."""
    from cosmic_rays import mend_cosmic_rays_file

    return {
        "cosmic_rays": lambda bad, out: mend_cosmic_rays_file(bad, out, goods[1:]),
        "cosmic_rays, another bad": lambda bad, out: mend_cosmic_rays_file(goods[0], out, [bad, *goods[1:]]),
    }


def exposure_steps(kernels: Path) -> dict[str, Callable[[Path, Path], object]]:
    """What is done with a raw exposure before `jwst` sees it."""
    from crds_references import _Selection
    from errors import FileFormatError
    from instrument_pipeline import make_plan
    from miri_pipeline import MIRI
    from navigate import check_kernels
    from pipeline_input import find_input
    from preflight import check_input
    from reduction import Options
    from remove_groups import remove_groups_file

    def check(bad: Path, out: Path) -> None:
        root = out.parent / "root"
        (root / "stage0").mkdir(parents=True, exist_ok=True)
        for old in (root / "stage0").iterdir():
            old.unlink()
        (root / "stage0" / bad.name).hardlink_to(bad)
        found, options = find_input(MIRI, root, MIRI.step_names), Options(root, basic_navigation=True)
        check_input(MIRI, options, found, [])
        plan = make_plan(MIRI, options, MIRI.step_names, found, [])
        if not all(path.resolve().is_relative_to(root.resolve()) for task in plan.tasks for path in task.outputs):
            raise ValueError("a product would lie outside the root")
        _Selection({"MIRI": ("BAND", "DETECTOR")}, ["2022-01-01 00:00:00"]).key(bad, {})
        check_kernels(bad, kernel_path=kernels)
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


def calibrated_exposures(directory: Path) -> list[Path]:
    """Three small calibrated exposures of the NIRSpec IFU with lines, two slices and a few hits."""
    x = np.meshgrid(np.arange(30), np.arange(48))[0]
    regions = np.where(x % 15 < 13, x // 15 + 1, 0)
    paths = []
    for dither in range(1, 4):
        generator = np.random.default_rng(dither)
        values = 100.0 + 40 * np.cos(x / 3.0) + 10 * np.sin(0.2 * x + dither) + generator.standard_normal(x.shape)
        values[generator.integers(0, 30, 5), generator.integers(0, 48, 5) % 30] += 300
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.where(regions, values, np.nan).T.astype("f4"), name="SCI")]
        hdus[0].header.update(INSTRUME="NIRSPEC", EXP_TYPE="NRS_IFU", TELESCOP="JWST", DETECTOR="NRS1")
        hdus[1].header["DISPAXIS"] = 1
        variances = {name: np.ones(x.T.shape, "f4") for name in ("ERR", "VAR_POISSON", "VAR_RNOISE")}
        dq = np.where(regions, 0, 1).T.astype("u4")
        others = {**variances, "DQ": dq, "REGIONS": regions.T.astype("f4")}
        hdus += [fits.ImageHDU(data, name=name) for name, data in others.items()]
        paths.append(directory / f"c{dither}_cal.fits")
        fits.HDUList(hdus).writeto(paths[-1])
    return paths


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


# Steps whose product is a version of another file than the bad one: of which of the good ones.
SOURCES = {
    **dict.fromkeys((f"{step}, the short one bad" for step in ("desaturate", "defringe_1d")), 0),
    **dict.fromkeys(("flat_field, the flat bad", "cosmic_rays, another bad"), 0),
    "flat_field, a dither bad": 1,
}


@dataclass(frozen=True)
class Case:
    """A step with what it is driven with.

    Attributes
    ----------
    step
        Takes a bad file and the output.
    good
        The file that bad ones are made from.
    source
        The file that products are versions of; None for the bad one.
    suffix
        End of the output's name.
    """

    step: Callable[[Path, Path], object]
    good: Path
    source: Path | None
    suffix: str = "s3d"


def all_cases(directory: Path) -> dict[str, Case]:
    """Every step by its name."""
    goods, kernels = good_cubes(directory)
    calibrated = calibrated_exposures(directory)
    raw = small_exposure(directory / "jw1_uncal.fits")
    (directory / "out").mkdir()
    families = (
        (cube_steps(goods, kernels), goods[0], goods, "s3d"),
        (flat_steps(goods), good_flat(goods), goods, "s3d"),
        (calibrated_steps(calibrated), calibrated[0], calibrated, "crf"),
        (exposure_steps(kernels), raw, [raw], "uncal"),
    )
    return {
        name: Case(step, good, own[SOURCES[name]] if name in SOURCES else None, suffix)
        for steps, good, own, suffix in families
        for name, step in steps.items()
    }
