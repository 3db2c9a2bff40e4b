"""Errors of drizzled cubes: right for a voxel, and the factors for means as the closed form says."""

import numpy as np
import pytest
from astropy.io import fits

from cube_covariance import add_covariance_factors, box_covariance


@pytest.mark.parametrize(("pixel", "voxel"), [(1.0, 0.7), (1.0, 1.003), (1.0, 2.3), (0.196, 0.13)])
def test_the_closed_form_is_that_of_drizzled_noise(pixel, voxel):
    """Noise in pixels side by side, spread over voxels by overlap, one voxel and the mean of many."""
    rng = np.random.default_rng(1)
    count = 400
    edges = np.arange(count + 1) * pixel
    borders = np.arange(int(edges[-1] / voxel) + 1) * voxel
    low = np.maximum(borders[:-1, None], edges[None, :-1])
    overlap = np.clip(np.minimum(borders[1:, None], edges[None, 1:]) - low, 0, None)
    voxels = rng.normal(size=(4000, count)) @ overlap.T / voxel
    independent = np.mean(np.sum(overlap**2, axis=1)) / voxel**2 / voxels.shape[1]
    assert voxels.mean(axis=1).var() / independent == pytest.approx(box_covariance(pixel, voxel), rel=0.06)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_errors_of_a_cube_of_noise(observation, tmp_path, monkeypatch):
    """An exposure of nothing but noise through the cube building of `jwst`."""
    from jwst.cube_build import CubeBuildStep

    for name, value in observation.environment.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "noise_cal.fits"
    with fits.open(sorted((observation.root / "stage2").glob("*_cal.fits"))[0]) as hdul:
        noise = np.random.default_rng(2).normal(size=hdul["SCI"].shape)
        hdul["SCI"].data[:] = np.where(np.isfinite(hdul["SCI"].data), noise, np.nan)
        hdul["ERR"].data[:] = 1
        hdul.writeto(path)
    CubeBuildStep.call(
        str(path),
        channel="1",
        output_type="band",
        coord_system="ifualign",
        output_dir=str(tmp_path),
        save_results=True,
        configure_log=False,
    )
    (cube_path,) = tmp_path.glob("*_s3d.fits")
    add_covariance_factors(cube_path, path)
    with fits.open(cube_path) as hdul:
        header = hdul["SCI"].header
        inside = (slice(20, -20), slice(6, -6), slice(6, -6))
        pull = (hdul["SCI"].data / hdul["ERR"].data)[inside]
    seen = np.isfinite(pull)
    assert seen.mean() > 0.99
    assert pull[seen].std() == pytest.approx(1, abs=0.02)
    # Means of so many voxels come within a few per cent of the limit of infinitely many.
    pull[~seen] = 0
    nz, ny, nx = (count // 8 * 8 for count in pull.shape)
    planes = pull[:, :ny, :nx].reshape(len(pull), ny // 8, 8, nx // 8, 8).sum(axis=(2, 4)) / 8
    spectra = pull[:nz].reshape(nz // 8, 8, *pull.shape[1:]).sum(axis=1) / 8**0.5
    assert planes.std() == pytest.approx(header["COVSPAT"], rel=0.07)
    assert spectra.std() == pytest.approx(header["COVSPEC"], rel=0.04)
