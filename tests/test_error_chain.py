"""ERR through all corrections, in the pipeline's order, of one noisy cube whose truth is known after each of them."""

import numpy as np
import pytest
from astropy.io import fits
from flat_scenes import simulate_planet, stripes
from fringes import UTC, fringes_like_the_simulator

from cubes import DQ, Cube, read_cube, write_cube
from defringe import defringe_1d_file
from desaturate import desaturate_files
from despike import despike_file
from flat_field import flat_field_file
from flat_files import Flat, IfuGrid, fringe_label, identity_of, write_flat
from navigate import navigate_file
from psf_correct import psf_correct_file
from simulate.cubes import simulate_cube

GROUPS = (5, 2)
SNR = 100.0  # of the longest ramp on the brightest voxels; on the faint ones of the limb some 20
FLAT_ERROR = 0.012  # as large as the noise: without it errors were too small
STEPS = ("stage3", "defringe_1d", "psf", "desaturate", "flat", "despike")


def observe(truth: Cube, seen: np.ndarray, seed: int, directory) -> list:
    """Cubes of ramps that share groups; of the longest, the brightest fifth of the voxels is too low or missing."""
    random = np.random.default_rng(seed)
    bright = np.nanmax(seen)
    noise = np.sqrt(GROUPS[0] * bright * (seen + 0.02 * bright)) / SNR
    draws = seen + noise * random.standard_normal((GROUPS[0], *seen.shape))
    charge = seen / np.nanpercentile(seen, 80)
    paths = []
    for groups in GROUPS:
        cube = Cube(truth.path, fits.HDUList([hdu.copy() for hdu in truth.hdul]))
        cube.header["NGROUPS"] = groups
        cube.sci[:], cube.err[:] = draws[:groups].mean(axis=0), noise / np.sqrt(groups)
        lost, gone = (charge * groups / GROUPS[0] > limit for limit in (1.0, 1.1))
        cube.sci[lost] *= 0.93
        cube.hdul["WMAP"].data[lost] -= 3
        cube.mark_bad(gone, DQ.SATURATED)
        paths.append(directory / f"{groups}_groups_s3d.fits")
        write_cube(cube, paths[-1])
    return paths


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Of each step the cube, and what it should hold; where the longest ramp has saturated."""
    directory = tmp_path_factory.mktemp("chain")
    scene = simulate_planet("saturn", directory)
    # Over the limb, where the PSF's share of the light changes most.
    path = directory / "truth_s3d.fits"
    simulate_cube(scene, UTC, path, "4", shape=(12, 10), offset=(0.0, 7.5))
    truth = read_cube(path)
    stripe = stripes(truth.shape[1:], 0.03, "spaxels", seed=4)
    seen = truth.sci * stripe * fringes_like_the_simulator(truth.wavelength, truth.shape[1:], 1)
    cubes, truths, paths = {}, {}, observe(truth, seen, 5, directory)
    longest = read_cube(paths[0])
    saturated = longest.hdul["WMAP"].data < truth.hdul["WMAP"].data
    cubes["stage3"], truths["stage3"] = longest, seen
    for number, path in enumerate(paths, start=1):
        defringe_1d_file(path, path, shared_lines=True, shorter_paths=paths[number:])
    cubes["defringe_1d"], truths["defringe_1d"] = read_cube(paths[0]), truth.sci * stripe
    for path in paths:
        navigate_file(path, path, kernel_path=directory)
        psf_correct_file(path, path, kernel_path=directory)
    # The divisor is a model without noise, tested elsewhere. Here it is given, and tested is what it does to errors.
    divisor = read_cube(paths[0]).hdul["PSF_MODEL_CUBE"].data
    cubes["psf"], truths["psf"] = read_cube(paths[0]), truth.sci * stripe / divisor
    out = directory / "out_s3d.fits"
    desaturate_files(paths, out)
    cubes["desaturate"], truths["desaturate"] = read_cube(out), truths["psf"]
    made = flat_like(cubes["desaturate"], stripe, seed=6)
    write_flat(made, directory / "flat.fits", "Flat constructed", {})
    flat_field_file(out, out, flat_path=directory / "flat.fits")
    cubes["flat"], truths["flat"] = read_cube(out), truth.sci / divisor
    despike_file(out, out)
    cubes["despike"], truths["despike"] = read_cube(out), truths["flat"]
    return cubes, truths, saturated


def flat_like(cube: Cube, stripe: np.ndarray, seed: int) -> Flat:
    """The flat of a cube, with errors."""
    values = np.broadcast_to(stripe, cube.shape) + FLAT_ERROR * np.random.default_rng(seed).standard_normal(cube.shape)
    error, corrected = np.full(cube.shape, FLAT_ERROR), np.ones(len(values), bool)
    identity = identity_of(cube.header)
    assert fringe_label(cube) == "_fringe1d"
    return Flat(values, error, corrected, cube.wavelength, IfuGrid.of_cube(cube), identity=identity)


@pytest.mark.parametrize("step", STEPS)
def test_errors_are_honest_after_every_step(chain, step):
    """(value - truth) / ERR: on the disc, near its limb, of voxels that have been replaced."""
    cubes, truths, saturated = chain
    cube = cubes[step]
    pull = np.where(cube.good, (cube.sci - truths[step]) / cube.err, np.nan)
    share = cubes["psf"].hdul["PSF_MODEL_CUBE"].data
    # Until they are replaced, saturated voxels are wrong.
    replaced = STEPS.index(step) >= STEPS.index("desaturate")
    sound = np.isfinite(pull) & (replaced | ~saturated)
    groups = {"disc": share > 0.95, "limb": share < 0.7}
    if replaced:
        groups["saturated"] = saturated
    for name, group in groups.items():
        some = pull[sound & group]
        assert some.size > 1000, name
        low, middle, high = np.percentile(some, [15.87, 50, 84.13])
        assert 0.85 < (high - low) / 2 < 1.15, name
        assert abs(middle) < 0.2, name
        assert np.mean(np.abs(some) > 5) < 5e-4, name
