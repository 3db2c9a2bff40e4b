"""Finding the disc: injected pointing errors come back, with an honest error, and nothing is found where nothing is."""

import numpy as np
import pytest
from astropy.io import fits

from cubes import read_cube
from navigate import navigate_file
from observation_geometry import observation_geometry
from pointing_fit import MAX_ERROR, collapsed_image, fit_image_pointing, psf_fwhm
from simulate.cubes import simulate_cube
from simulate.kernels import write_kernels
from simulate.scene import Scene
from spice_kernels import kernels_loaded

UTC = "2022-11-13T10:00:00"
ERROR = (0.21, -0.28)  # 0.35 arcsec


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    made = {}

    def directory(target):
        if target not in made:
            made[target] = tmp_path_factory.mktemp(f"kernels_{target}")
            write_kernels(made[target], "2022-11-11", "2022-11-15", target)
        return made[target]

    return directory


def view(
    kernels,
    target,
    seed=1,
    offset=(0.0, 0.0),
    size=26,
    spaxel=0.13,
    error=ERROR,
    blur=1.0,
    turn=18.0,
    slices=None,
    moon=None,
    **scene_options,
):
    """An image of a field with belts, spots and noise, and what `fit_image_pointing` needs of it.

    With `slices`, each row shows what is at the centre of a slice that wide [arcsec], times a gain good to 2 %; with
    `moon`, there is a point source at that offset.
    """
    directory = kernels(target)
    with kernels_loaded(directory):
        geometry = observation_geometry(target, UTC)
    ra0, dec0 = geometry.target_radec
    scene = Scene(target, directory, seed=seed, **scene_options)
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) * spaxel
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))

    def sky(x, y):
        east, north = offset[0] + cos * x - sin * y, offset[1] + sin * x + cos * y
        return ra0 + east / 3600 / np.cos(np.radians(dec0)), dec0 + north / 3600

    ra, dec = sky(x, y)
    seen = sky(x, y if slices is None else slices * np.round(y / slices))
    field = (float(ra.mean()), float(dec.mean()), size * spaxel)
    fwhm = psf_fwhm("MIRI", 5.35) * blur
    snapshot = scene.snapshot(
        UTC, wavelength_range=(5.0, 5.7), field=field, fwhm=lambda wavelength: blur * (0.033 * wavelength + 0.106)
    )
    rng = np.random.default_rng(seed)
    planes = np.array([snapshot.radiance(*seen, w) for w in np.linspace(5.05, 5.65, 7)])
    if slices is not None:
        planes *= 1 + rng.normal(0, 0.02, (size, 1))
    if moon is not None:
        distance = np.hypot((ra - ra0) * 3600 * np.cos(np.radians(dec0)) - moon[0], (dec - dec0) * 3600 - moon[1])
        planes += 2000 * np.exp(-4 * np.log(2) * (distance / fwhm) ** 2)
    planes += rng.normal(0, 50, planes.shape)
    planes[rng.random(planes.shape) < 0.01] *= 4  # cosmic rays
    planes[:, 0] = np.nan
    ra_header = ra + error[0] / 3600 / np.cos(np.radians(dec0))
    return collapsed_image(planes), ra_header, dec + error[1] / 3600, geometry, psf_fwhm("MIRI", 5.35), spaxel


def at_limb(position_angle, radius):
    """Offset of a field from the target's centre, to the limb at a position angle [deg]."""
    return radius * np.sin(np.radians(position_angle)), radius * np.cos(np.radians(position_angle))


def across_and_along(fit, offset):
    """Difference from the truth and stated error [arcsec], in the direction of `offset` and at right angles to it."""
    across = np.array(offset) / np.hypot(*offset)
    axes = np.array([across, [across[1], -across[0]]])
    difference = axes @ np.array([fit.ra_offset - ERROR[0], fit.dec_offset - ERROR[1]])
    cross = fit.correlation * fit.ra_error * fit.dec_error
    covariance = np.array([[fit.ra_error**2, cross], [cross, fit.dec_error**2]])
    return difference, np.sqrt(np.diag(axes @ covariance @ axes.T))


def pull(fit, error=ERROR):
    """Distance from the truth in units of the stated error ellipse."""
    difference = np.array([fit.ra_offset - error[0], fit.dec_offset - error[1]])
    cross = fit.correlation * fit.ra_error * fit.dec_error
    covariance = np.array([[fit.ra_error**2, cross], [cross, fit.dec_error**2]])
    return float(np.sqrt(difference @ np.linalg.solve(covariance, difference)))


@pytest.mark.parametrize(("target", "seed"), [("neptune", 1), ("neptune", 2), ("titan", 3)])
def test_a_whole_disc_is_found_to_twenty_milliarcseconds(kernels, target, seed):
    fit = fit_image_pointing(*view(kernels, target, seed))
    assert fit.significant and fit.reason == ""
    assert np.hypot(fit.ra_offset - ERROR[0], fit.dec_offset - ERROR[1]) < 0.02
    assert pull(fit) < 3
    assert fit.ra_error < 0.02 and fit.dec_error < 0.02


@pytest.mark.parametrize(
    ("seed", "position_angle", "turn"),
    [(1, 0, 18), (2, 0, 70), (3, 0, 0), (5, 130, 0), (6, 190, 18), (7, 285, 55)],
)
def test_an_arc_of_saturns_limb(kernels, seed, position_angle, turn):
    """Only an arc, with belts and spots: across the limb to 20 mas, along it as the error says."""
    offset = at_limb(position_angle, 7.9)
    fit = fit_image_pointing(*view(kernels, "saturn", seed, offset=offset, turn=turn))
    (across, along), (across_error, along_error) = across_and_along(fit, offset)
    assert fit.significant and fit.reason == ""
    assert abs(across) < 0.02 and across_error < 0.02
    assert along_error < 0.05
    assert abs(along) < 0.02 or along_error > 0.02
    assert pull(fit) < 3


def test_towards_the_terminator_the_error_says_what_is_unknown(kernels):
    """A sunlit and a glowing disc end up to 0.04 arcsec apart there, and look alike."""
    offset = at_limb(60, 7.9)
    fit = fit_image_pointing(*view(kernels, "saturn", 4, offset=offset, turn=40.0))
    (across, _), (across_error, _) = across_and_along(fit, offset)
    assert fit.significant
    assert 0.01 < across_error < 0.04 and abs(across) < 0.04
    assert pull(fit) < 3


@pytest.mark.parametrize("seed", [8, 9])
def test_slices_wider_than_spaxels_do_not_pull(kernels, seed):
    """Their steps along a limb that is aslant to them, and their gains."""
    offset = at_limb(0, 7.9)
    fit = fit_image_pointing(*view(kernels, "saturn", seed, offset=offset, turn=60.0, slices=0.2))
    (across, _), _ = across_and_along(fit, offset)
    assert fit.significant
    assert abs(across) < 0.02
    assert pull(fit) < 3


def test_a_moon_beside_the_limb_does_not_pull(kernels):
    image = view(kernels, "neptune", 4, moon=(0.9, 1.0))
    fit = fit_image_pointing(*image)
    assert np.hypot(fit.ra_offset - ERROR[0], fit.dec_offset - ERROR[1]) < 0.02
    assert pull(fit) < 3


def test_the_rings_do_not_pull(kernels):
    fit = fit_image_pointing(*view(kernels, "saturn", 2, offset=(-8.2, 1.5), size=32))
    assert fit.significant
    assert np.hypot(fit.ra_offset - ERROR[0], fit.dec_offset - ERROR[1]) < 0.04
    assert pull(fit) < 3


def test_a_wider_psf_than_assumed_does_not_pull(kernels):
    fit = fit_image_pointing(*view(kernels, "neptune", blur=1.2))
    assert np.hypot(fit.ra_offset - ERROR[0], fit.dec_offset - ERROR[1]) < 0.02
    assert pull(fit) < 3


@pytest.mark.parametrize(("seed", "position_angle", "radius"), [(1, 240, 22.5), (10, 30, 21.5)])
def test_along_a_straight_limb_the_error_is_large_or_nothing_is_applied(kernels, seed, position_angle, radius):
    offset = at_limb(position_angle, radius)
    fit = fit_image_pointing(*view(kernels, "jupiter", seed, offset=offset, size=24))
    (_, along), (across_error, along_error) = across_and_along(fit, offset)
    assert fit.significant
    assert along_error > 3 * across_error
    if along_error > MAX_ERROR:
        assert "position angle" in fit.reason
    else:
        assert abs(along) < 3 * along_error
    # What is applied is the offset across the limb, but for the limb's own direction in the field.
    found, across = np.array([fit.ra_offset, fit.dec_offset]), np.array(offset) / np.hypot(*offset)
    assert abs(found @ across - np.array(ERROR) @ across) < 0.03


@pytest.mark.parametrize(
    ("target", "offset"),
    [("saturn", (0.0, 4.0)), ("neptune", (8.0, 8.0)), ("jupiter", (0.0, 0.0)), ("saturn", (0, 14))],
)
def test_without_a_limb_nothing_is_found(kernels, target, offset):
    fit = fit_image_pointing(*view(kernels, target, offset=offset))
    assert not fit.significant and fit.reason
    assert (fit.ra_offset, fit.dec_offset) == (0, 0)


def test_noise_alone_is_no_disc(kernels):
    image, *rest = view(kernels, "neptune")
    noise = np.random.default_rng(3).normal(0, 1, image.shape)
    assert not fit_image_pointing(noise, *rest).significant
    assert not fit_image_pointing(np.full(image.shape, np.nan), *rest).significant


def test_the_image_is_robust_to_spikes_and_empty_planes():
    rng = np.random.default_rng(0)
    truth = 1 + np.add.outer(np.arange(12.0), np.arange(10.0)) / 10
    spectrum = np.linspace(1, 40, 60)
    cube = truth * spectrum[:, None, None]
    cube[rng.random(cube.shape) < 0.05] *= 30
    cube[5] = np.nan
    cube[:, 0, 0] = np.nan
    cube[:45, 1, 1] = np.nan
    image = collapsed_image(cube)
    assert np.isnan(image[0, 0]) and np.isnan(image[1, 1])
    ratio = image / truth
    assert np.nanmax(ratio) / np.nanmin(ratio) - 1 < 0.01


def test_a_cube_is_corrected_and_says_so(kernels, tmp_path):
    scene = Scene("neptune", kernels("neptune"))
    path = simulate_cube(
        scene, UTC, tmp_path / "a_s3d.fits", n_wave=12, pointing_error=ERROR, noise=100.0, rotation_deg=30
    )
    facts = navigate_file(path, tmp_path / "nav.fits", kernel_path=kernels("neptune"), fit_pointing=True)
    sci, primary = fits.getheader(tmp_path / "nav.fits", "SCI"), fits.getheader(tmp_path / "nav.fits")
    assert np.hypot(sci["NAV_DRA"] - ERROR[0], sci["NAV_DDEC"] - ERROR[1]) < 0.02
    assert any("pointing fit" in note for note in facts["notes"])
    assert primary["NAV_SRA"] == pytest.approx(facts["fit"]["ra_error"], abs=1e-5)
    # A second fit, from the corrected file, comes to the same.
    again = navigate_file(tmp_path / "nav.fits", tmp_path / "b.fits", kernel_path=kernels("neptune"), fit_pointing=True)
    assert again["ra_offset"] == pytest.approx(facts["ra_offset"], abs=1e-6)
    # With the error given, nothing is left to be found.
    rest = navigate_file(
        path,
        tmp_path / "c.fits",
        kernel_path=kernels("neptune"),
        fit_pointing=True,
        ra_offset=ERROR[0],
        dec_offset=ERROR[1],
    )
    assert np.hypot(rest["fit"]["ra_offset"], rest["fit"]["dec_offset"]) < 0.02


def test_a_cube_without_a_limb_keeps_its_pointing(kernels, tmp_path):
    scene = Scene("saturn", kernels("saturn"))
    path = simulate_cube(scene, UTC, tmp_path / "a_s3d.fits", n_wave=6, offset=(0.0, 4.0), noise=100.0)
    facts = navigate_file(path, tmp_path / "nav.fits", kernel_path=kernels("saturn"), fit_pointing=True)
    assert any("no offset applied" in warning for warning in facts["warnings"])
    assert (facts["ra_offset"], facts["dec_offset"]) == (0, 0)
    before, after = read_cube(path).sci_header, read_cube(tmp_path / "nav.fits").sci_header
    assert before["CRVAL1"] == after["CRVAL1"] and "NAV_DRA" not in after


def test_psf_widths():
    assert psf_fwhm("MIRI", 10.0) == pytest.approx(0.436)
    assert 0.1 < psf_fwhm("NIRSPEC", 2.0) < psf_fwhm("NIRSPEC", 5.0) < 0.25
