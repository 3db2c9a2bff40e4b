"""Finding the disc: injected pointing errors come back, with an honest error, and nothing is found where nothing is."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from cubes import read_cube
from errors import FileFormatError, InputError
from navigate import navigate_file
from observation_geometry import observation_geometry
from pointing_fit import MAX_ERROR, DiscPosition, PointingFit, collapsed_image, fit_image_pointing, mean_pointing
from psf_model import psf_fwhm
from simulate.cubes import simulate_cube
from simulate.kernels import write_kernels
from simulate.scene import Scene
from spice_kernels import kernels_loaded
from visit_pointing import fit_visit_pointing, read_visit_pointing

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
    noise_seed=None,
    **scene_options,
):
    """An image of a field with belts, spots and noise, and what `fit_image_pointing` needs of it.

    With `slices`, the field is cut along rows into slices that wide [arcsec], with gains good to 2 % and with pixels
    of that size along them, and the rows take from the slices that they overlap; with `moon`, there is a point
    source at that offset.
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
    points, columns, rows = y[:, 0], x[0], np.eye(size)
    if slices is not None:
        points, rows = _sliced(y[:, 0], spaxel, slices)
        columns = np.add.outer(x[0], _WITHIN * slices).ravel()
    seen = sky(*np.meshgrid(columns, points))
    field = (float(ra.mean()), float(dec.mean()), size * spaxel)
    fwhm = float(psf_fwhm(5.35)) * blur
    snapshot = scene.snapshot(
        UTC, wavelength_range=(5.0, 5.7), field=field, fwhm=lambda wavelength: blur * (0.033 * wavelength + 0.106)
    )
    rng = np.random.default_rng(seed if noise_seed is None else noise_seed)
    if slices is not None:
        rows = rows * np.repeat(1 + rng.normal(0, 0.02, points.size // _POINTS), _POINTS)
    planes = np.array([rows @ snapshot.radiance(*seen, w) for w in np.linspace(5.05, 5.65, 7)])
    if slices is not None:
        planes = planes.reshape(*planes.shape[:-1], size, _POINTS).mean(axis=-1)
    if moon is not None:
        distance = np.hypot((ra - ra0) * 3600 * np.cos(np.radians(dec0)) - moon[0], (dec - dec0) * 3600 - moon[1])
        planes += 2000 * np.exp(-4 * np.log(2) * (distance / fwhm) ** 2)
    planes += rng.normal(0, 50, planes.shape)
    planes[rng.random(planes.shape) < 0.01] *= 4  # cosmic rays
    planes[:, 0] = np.nan
    ra_header = ra + error[0] / 3600 / np.cos(np.radians(dec0))
    return collapsed_image(planes), ra_header, dec + error[1] / 3600, geometry, float(psf_fwhm(5.35)), spaxel


_POINTS = 4  # in a pixel, each way
_WITHIN = (np.arange(_POINTS) + 0.5) / _POINTS - 0.5


def _sliced(y, spaxel, slices):
    """Where slices are sampled across, and the weights (row of the cube, point) of drizzling them into rows."""
    number = int(np.ceil((y[-1] - y[0] + spaxel) / slices)) + 2
    centres = (np.arange(number) - (number - 1) / 2) * slices
    points = np.add.outer(centres, _WITHIN * slices).ravel()
    low = np.maximum.outer(y - spaxel / 2, centres - slices / 2)
    overlap = np.maximum(np.minimum.outer(y + spaxel / 2, centres + slices / 2) - low, 0)
    return points, np.repeat(overlap / overlap.sum(axis=1, keepdims=True), _POINTS, axis=1) / _POINTS


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


def test_the_cubes_of_a_visit_together(kernels):
    """Four dithers of the same scene, sliced: better across than one, and no more sure along than their scatter."""
    limb = np.array(at_limb(0, 7.9))
    dithers = [(0.56, -0.29), (-0.55, 0.28), (0.37, 0.35), (-0.38, -0.34)]
    fits = [
        fit_image_pointing(
            *view(kernels, "saturn", 411, offset=tuple(limb + d), turn=40.0, slices=0.177, noise_seed=number)
        )
        for number, d in enumerate(dithers)
    ]
    visit = mean_pointing(fits)
    (across, _), (across_error, along_error) = across_and_along(visit, limb)
    assert visit.significant
    assert abs(across) < 0.02 and across_error < 0.02 and along_error < 0.05
    assert pull(visit) < 3


def fit_of(offset, error, shared=0.0):
    covariance = np.diag(np.square(error)).astype(float)
    position = DiscPosition(np.array(offset, float), covariance, np.eye(2) * shared**2)
    return PointingFit(*map(float, (*offset, *error)), 0.0, True, "", position)


def test_the_mean_of_a_visit_is_the_weighted_one():
    fits = [fit_of((0.10, 0.2), (0.01, 0.02)), fit_of((0.11, 0.2), (0.01, 0.02)), fit_of((0.105, 0.2), (0.005, 0.02))]
    visit = mean_pointing(fits)
    assert (visit.ra_offset, visit.dec_offset) == pytest.approx((0.105, 0.2), abs=1e-9)
    assert visit.ra_error == pytest.approx((2 / 0.01**2 + 1 / 0.005**2) ** -0.5, rel=0.25)
    assert visit.dec_error == pytest.approx(0.02 / np.sqrt(3), rel=0.25)


def test_what_the_cubes_of_a_visit_share_does_not_average_out():
    fits = [fit_of((0.1, 0.2), (0.02, 0.02), shared=0.015)] * 50
    assert mean_pointing(fits).ra_error == pytest.approx(0.015, rel=0.03)


def test_one_wrong_fit_has_little_say_and_scatter_is_honest():
    good = [fit_of((0.1 + 0.001 * i, 0.2), (0.01, 0.01)) for i in range(-2, 3)]
    visit = mean_pointing([*good, fit_of((0.5, -0.3), (0.01, 0.01))])
    assert np.hypot(visit.ra_offset - 0.1, visit.dec_offset - 0.2) < 0.003
    scattered = [fit_of((x, 0.2), (0.001, 0.01)) for x in (0.08, 0.12, 0.09, 0.11)]
    assert mean_pointing(scattered).ra_error > 0.004


def test_a_visit_in_which_nothing_was_found():
    nothing = PointingFit(0.0, 0.0, np.inf, np.inf, 0.0, False, "too few good spaxels")
    assert mean_pointing([nothing, nothing]) == nothing
    assert mean_pointing([nothing, fit_of((0.1, 0.2), (0.01, 0.01))]).ra_offset == pytest.approx(0.1)


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


def test_a_visit_is_corrected_by_its_table(kernels, tmp_path):
    directory = kernels("neptune")
    scene = Scene("neptune", directory)
    paths = [
        simulate_cube(
            scene, utc, tmp_path / d / "a_s3d.fits", n_wave=12, pointing_error=ERROR, noise=100.0, rotation_deg=30
        )
        for d, utc in (("d1", UTC), ("d2", "2022-11-13T10:20:00"))
    ]
    facts = fit_visit_pointing(paths, tmp_path / "visit.ecsv", kernel_path=directory)
    assert "2 of 2 cubes" in facts["notes"][0] and facts["warnings"] == []
    table = Table.read(tmp_path / "visit.ecsv")
    assert list(table["cube"]) == ["d1/a_s3d.fits", "d2/a_s3d.fits"]
    assert np.hypot(table["ra_offset"] - ERROR[0], table["dec_offset"] - ERROR[1]).max() < 0.02
    assert read_visit_pointing(tmp_path / "visit.ecsv").facts == facts["fit"]
    for path in paths:
        done = navigate_file(path, path.with_name("nav.fits"), kernel_path=directory, pointing=tmp_path / "visit.ecsv")
        assert (done["ra_offset"], done["dec_offset"]) == (facts["fit"]["ra_offset"], facts["fit"]["dec_offset"])
    # What is found counts from the offsets given.
    rest = fit_visit_pointing(
        paths[:1], tmp_path / "rest.ecsv", kernel_path=directory, ra_offset=ERROR[0], dec_offset=ERROR[1]
    )
    assert np.hypot(rest["fit"]["ra_offset"], rest["fit"]["dec_offset"]) < 0.02


def test_a_visit_without_a_limb_keeps_its_pointing(kernels, tmp_path):
    scene = Scene("saturn", kernels("saturn"))
    path = simulate_cube(scene, UTC, tmp_path / "a_s3d.fits", n_wave=6, offset=(0.0, 4.0), noise=100.0)
    facts = fit_visit_pointing([path], tmp_path / "visit.ecsv", kernel_path=kernels("saturn"))
    assert "no offset applied" in facts["warnings"][0]
    done = navigate_file(path, tmp_path / "nav.fits", kernel_path=kernels("saturn"), pointing=tmp_path / "visit.ecsv")
    assert (done["ra_offset"], done["dec_offset"]) == (0, 0)
    assert any("no offset applied" in warning for warning in done["warnings"])


def test_a_table_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "visit.ecsv").write_text("# %ECSV 1.0\n# ---\n# datatype:\n# - {name: a, datatype: int64}\na\n1\n")
    with pytest.raises(FileFormatError, match="visit_pointing"):
        read_visit_pointing(tmp_path / "visit.ecsv")
    with pytest.raises(InputError, match="leave one out"):
        navigate_file("a.fits", "b.fits", pointing="visit.ecsv", fit_pointing=True)
