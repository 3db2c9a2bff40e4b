"""The linear algebra behind synthetic flats against the plain way: all equations written out, one after the other."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flat_model import JointFit
from planet_model import Priors, Scene, Sightlines


def plain_fit(sight, scene, weight, mask, shape, priors, data):
    """Coefficients and covariance of the flat by the normal equations of flat and scene together."""
    places = np.unique(sight.place[weight > 0])
    count = places.size
    prior = np.zeros((count, count))
    for a, p in enumerate(places):
        for b, q in enumerate(places):
            prior[a, b] += priors.spaxel**2 * (p == q)
            prior[a, b] += priors.row**2 * (p // shape[1] == q // shape[1])
            prior[a, b] += priors.column**2 * (p % shape[1] == q % shape[1])
    for axis in (places // shape[1], places % shape[1]):
        plane = (axis - axis.mean()) / max(axis.std(), 1.0)
        prior += priors.gradient**2 * np.outer(plane, plane)
    columns = scene.columns.toarray()
    size = count + columns.shape[1]
    normal = np.zeros((size, size))
    normal[:count, :count] = np.linalg.inv(prior)
    normal[count:, count:] = scene.prior_precision(priors)
    right = np.zeros(size)
    for i in range(weight.size):
        if weight[i] > 0 and mask[i]:
            row = np.concatenate([(places == sight.place[i]).astype(float), columns[i]])
            normal += weight[i] * np.outer(row, row)
            right += weight[i] * data[i] * row
    inverse = np.linalg.inv(normal)
    return inverse @ right, inverse[:count, :count]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 6), st.floats(0, 0.5))
def test_solution_and_error_are_those_of_the_normal_equations(seed, rows, columns, missing):
    random = np.random.default_rng(seed)
    dithers = 4
    y, x = np.mgrid[:rows, :columns]
    dither = np.repeat(np.arange(dithers), rows * columns)
    sight = Sightlines(
        latitude=np.concatenate([(10 + 2 * (y + d % 2)).ravel() for d in range(dithers)]) + 0.3,
        longitude=np.concatenate([(358 + 2 * (x + d // 2)).ravel() for d in range(dithers)]) % 360 + 0.2,
        emission=random.uniform(0, 70, dither.size),
        velocity=random.uniform(-10, 10, dither.size),
        place=np.tile(np.arange(rows * columns), dithers),
        dither=dither,
    )
    scene = Scene(sight, 2.0, 4.0, dithers)
    priors = Priors(gain=0.01)
    variance = random.uniform(0.5, 2, dither.size) * 1e-4
    variance[random.uniform(size=dither.size) < 0.1] = np.inf
    variance[0] = 1e-4
    data = 0.02 * random.standard_normal((dither.size, 3))
    mask = random.uniform(size=data.shape) >= missing
    fit = JointFit(sight.place, scene, variance, (rows, columns), priors)
    solution = fit.solve(data, mask)
    for k in range(3):
        expected, _ = plain_fit(sight, scene, 1 / variance, mask[:, k], (rows, columns), priors, data[:, k])
        flat = expected[: int(fit.seen.sum())]
        np.testing.assert_allclose(fit.flat(solution)[k, fit.seen], flat, atol=1e-4)
    _, covariance = plain_fit(
        sight, scene, 1 / variance, np.ones(dither.size, bool), (rows, columns), priors, data[:, 0]
    )
    centred = np.eye(len(covariance)) - 1 / len(covariance)
    error = np.sqrt(np.maximum(np.diag(centred @ covariance @ centred), 0))
    np.testing.assert_allclose(fit.flat_error()[fit.seen], error, rtol=1e-6, atol=1e-9)


def test_weights_of_the_map_add_up_to_one_at_pole_and_seam():
    latitude, longitude = np.linspace(-90, 90, 181), np.linspace(0, 720, 181)
    zeros = np.zeros(181)
    sight = Sightlines(latitude, longitude, zeros, zeros, np.arange(181), np.zeros(181, int))
    nodes = Scene(sight, 3.0, 4.0, 1)
    weights = nodes.columns[:, : nodes.columns.shape[1]].toarray()
    # The map comes first, then splines, which add up to one as well, then terms that vanish here, then the gain.
    np.testing.assert_allclose(weights.sum(axis=1), 3.0, atol=1e-9)
    turned = Scene(Sightlines(latitude, longitude % 360, zeros, zeros, np.arange(181), np.zeros(181, int)), 3.0, 4.0, 1)
    np.testing.assert_allclose(turned.columns.toarray(), weights, atol=1e-9)
