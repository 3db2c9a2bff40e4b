"""Despiking the plain way: one voxel at a time, from the description of the tests.

Written from the definitions, not for speed; the tests hold `despike.find_spikes` against it.
"""

import numpy as np


def reference_find_spikes(
    sci,
    err,
    nsigma=7.0,
    box_size=9,
    window=7,
    iterations=3,
    psf_fwhm=2.0,
    median_test=True,
    sharpness_test=True,
    wavelength_test=True,
):
    """The mask that `despike.find_spikes` gives, with the same parameters."""
    values = np.where(np.isfinite(sci), sci, np.nan).astype(float)
    noise = _errors(values, err)
    across_wavelengths = wavelength_test and len(values) >= 3
    fwhm = np.broadcast_to(psf_fwhm, len(values)) if sharpness_test else None

    def repeat(spikes, deviations):
        for _ in range(iterations):
            deviation, local = deviations(spikes)
            sigma = noise * _image_scale(deviation, noise)[:, None, None]
            if across_wavelengths:
                sigma = sigma * _spaxel_scale(deviation, sigma) * _beside_gap(deviation)
            box, around = (box_size if median_test else None, window) if across_wavelengths else (None, None)
            found = _look(deviation, local, spikes, (nsigma - 2) * sigma, box, around, fwhm)
            if np.array_equal(found, spikes):
                break
            spikes = found
        return spikes

    nothing = np.zeros(values.shape, bool)
    if not across_wavelengths:

        def beside_box(spikes):
            median = _each(_without(values, spikes), lambda a, v: _median(_box(a, v, box_size // 2)))
            return values - median, None

        return repeat(nothing, beside_box)
    local = _local_deviation(values, noise, window)
    suspects = repeat(nothing, lambda spikes: (local, None))
    model = _Model(values, noise, suspects, local)
    if model.count:
        return repeat(suspects, lambda spikes: (np.where(model.modelled, model.deviation(spikes), local), local))

    def beside_neighbours(spikes):
        deviation = values - _local_expectation(_without(values, spikes), noise, window)
        return deviation, deviation

    return repeat(suspects, beside_neighbours)


def _look(deviation, local, spikes, least, box_size, window, fwhm):
    unflagged = _without(deviation, spikes)
    backgrounds = {}
    for voxel in np.ndindex(deviation.shape):
        value = deviation[voxel]
        if not abs(value) > least[voxel]:
            continue
        background = 0.0
        if window is not None:
            if not abs(value - _number(_median(_spectral_neighbours(unflagged, voxel, window)))) > least[voxel]:
                continue
            if box_size is not None:
                background = _number(_median(_box(unflagged, voxel, box_size // 2)))
                if not abs(value - background) > least[voxel]:
                    continue
        backgrounds[voxel] = background
    found = np.zeros(deviation.shape, bool)
    for voxel, background in backgrounds.items():
        parts = [[voxel]]
        if fwhm is not None:
            parts = _sharp_parts(deviation - background, unflagged - background, local, spikes, voxel, fwhm[voxel[0]])
        for member in (member for part in parts for member in part if member in backgrounds):
            found[member] = True
    return found


def _sharp_parts(deviation, unflagged, local, spikes, voxel, fwhm):
    """The voxel, or the blocks of 2 x 2 with it, as lists of voxels, that are sharper than the PSF allows."""
    around = _eight(unflagged, voxel)
    if abs(deviation[voxel]) <= (1 - 1e-4) * np.max(np.abs(around), initial=0.0, where=np.isfinite(around)):
        return []
    wavelength, y, x = voxel
    blocks = [[(y + j, x + i), (y + j, x), (y, x + i), (y, x)] for j in (-1, 1) for i in (-1, 1)]
    if _is_sharp(deviation, unflagged, local, spikes, voxel, [(y, x)], fwhm):
        blocks = [[(y, x)]]
    else:
        blocks = [block for block in blocks if _is_sharp(deviation, unflagged, local, spikes, voxel, block, fwhm)]
    return [[(wavelength, *place) for place in block] for block in blocks]


def _is_sharp(deviation, unflagged, local, spikes, voxel, part, fwhm):
    y, x = np.array(part).T
    ring = [
        (j, i) for j in range(y.min() - 1, y.max() + 2) for i in range(x.min() - 1, x.max() + 2) if (j, i) not in part
    ]

    def light(place):
        return np.exp(-4 * np.log(2) * ((place[0] - y.mean()) ** 2 + (place[1] - x.mean()) ** 2) / fwhm**2)

    share = 0.5 * np.mean([light(place) for place in ring]) / np.mean([light(place) for place in part])

    def ring_and_part(image, unflagged_image):
        _, ny, nx = image.shape
        values = {(j, i): unflagged_image[voxel[0], j, i] for j, i in ring + part if 0 <= j < ny and 0 <= i < nx}
        values[voxel[1:]] = image[voxel]
        means = []
        for places, least in ((ring, 3), (part, 1)):
            there = [values[place] for place in places if np.isfinite(values.get(place, np.nan))]
            means.append(np.mean(there) if len(there) >= least else np.nan)
        return np.sign(image[voxel]) * np.array(means)

    mean_of_ring, mean_of_part = ring_and_part(deviation, unflagged)
    if not mean_of_ring < share * mean_of_part:
        return False
    if local is None:
        return True
    mean_of_ring, mean_of_part = ring_and_part(local, _without(local, spikes))
    return not mean_of_ring >= share * mean_of_part


def _errors(values, err):
    errors = np.where(np.isfinite(err) & (err > 0), err, np.nan).astype(float)
    counted = np.where(np.isfinite(values), errors, np.nan)
    typical = np.array([_median(image) for image in counted])
    fallback = _median(typical) if np.isfinite(typical).any() else 1.0
    for i, image in enumerate(errors):
        image[np.isnan(image)] = typical[i] if np.isfinite(typical[i]) else fallback
    return errors


def _median(samples) -> float:
    samples = np.asarray(samples)[np.isfinite(samples)]
    return float(np.median(samples)) if samples.size else np.nan


def _number(value) -> float:
    return value if np.isfinite(value) else 0.0


def _without(values, mask):
    return np.where(mask, np.nan, values)


def _box(cube, voxel, half):
    wavelength, y, x = voxel
    return cube[wavelength, max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1]


def _eight(cube, voxel):
    wavelength, y, x = voxel
    _, ny, nx = cube.shape
    places = [(y + j, x + i) for j in (-1, 0, 1) for i in (-1, 0, 1) if (j, i) != (0, 0)]
    return np.array([cube[wavelength, j, i] for j, i in places if 0 <= j < ny and 0 <= i < nx])


def _spectral_neighbours(cube, voxel, window):
    wavelength, y, x = voxel
    others = range(max(wavelength - window // 2, 0), min(wavelength + window // 2 + 1, len(cube)))
    return np.array([cube[k, y, x] for k in others if k != wavelength])


def _each(cube, function):
    out = np.empty(cube.shape)
    for voxel in np.ndindex(cube.shape):
        out[voxel] = function(cube, voxel)
    return out


def _median_of_eight(cube, voxel):
    around = _eight(cube, voxel)
    return _median(around) if np.isfinite(around).sum() >= 3 else np.nan


def _local_expectation(values, noise, window):
    middle = _each(values, _median_of_eight)
    scale = np.maximum(np.abs(middle), noise)
    by_excess = middle + _each(values - middle, lambda a, v: _median(_spectral_neighbours(a, v, window)))
    by_ratio = middle + scale * _each(
        (values - middle) / scale, lambda a, v: _median(_spectral_neighbours(a, v, window))
    )
    nearer = np.abs(values - by_excess) < np.abs(values - by_ratio)
    guess = np.where(nearer, by_excess, by_ratio)
    return np.where(np.isfinite(values - middle), guess, (by_excess + by_ratio) / 2)


def _local_deviation(values, noise, window):
    return values - _local_expectation(values, noise, window)


def _image_scale(deviation, noise):
    ratio = np.abs(deviation) / noise
    scale = np.array([1.4826 * _median(image if np.isfinite(image).sum() >= 25 else ratio) for image in ratio])
    return np.maximum(np.where(np.isfinite(scale), scale, 1.0), 0.5)


def _spaxel_scale(deviation, sigma):
    out, ragged = np.ones(deviation.shape[1:]), _ragged(deviation)
    for place in np.ndindex(out.shape):
        ratio = np.abs(deviation[:, *place]) / sigma[:, *place]
        ratio = ratio[np.isfinite(ratio)]
        if ratio.size >= 25:
            at_edge = np.quantile(ratio, 0.95) / 1.96 if ragged[place] else 0.0
            out[place] = max(1.0, 1.4826 * np.median(ratio), at_edge)
    return out


def _ragged(deviation):
    share = np.isfinite(deviation).mean(axis=0)
    partly = (share > 0) & (share < 0.98)
    ny, nx = share.shape
    return np.array(
        [
            [share[y, x] > 0 and partly[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any() for x in range(nx)]
            for y in range(ny)
        ]
    )


def _beside_gap(deviation):
    out, ragged = np.ones(deviation.shape), _ragged(deviation)
    for wavelength, y, x in np.ndindex(deviation.shape):
        around = deviation[max(wavelength - 1, 0) : wavelength + 2, y, x]
        if ragged[y, x] and not np.isfinite(np.delete(around, min(wavelength, 1))).all():
            out[wavelength, y, x] = 3.0
    return out


class _Model:
    """Every image as a combination of few, by singular values and least squares."""

    def __init__(self, values, noise, suspects, local):
        self.modelled = np.isfinite(values).mean(axis=0) >= 0.5
        spaxels = int(self.modelled.sum())
        self.count = min(24, min(len(values), spaxels) // 6)
        if not self.count:
            return
        by_spaxel = np.median(noise[:, self.modelled], axis=0)
        by_wavelength = np.median(noise[:, self.modelled] / by_spaxel, axis=1)[:, None]
        self.weight = 1 / (by_spaxel * by_wavelength)
        self.shape = values.shape
        self.data = values[:, self.modelled] * self.weight
        self.filled = suspects[:, self.modelled] | np.isnan(self.data)
        self.work = np.where(self.filled, self.data - local[:, self.modelled] * self.weight, self.data)
        brightness = np.array([_median(spectrum) for spectrum in self.data.T])
        brightness = np.where(brightness == 0, np.nan, brightness)
        spectrum = np.array([_median(image / brightness) for image in self.data])
        separable = np.nan_to_num(spectrum[:, None] * brightness, nan=0.0)
        self.work = np.where(np.isnan(self.work), separable, self.work)
        for most in (3, 6, 12):
            self._fill(self._images(min(most, self.count)), self.filled)

    def deviation(self, left_out):
        out = left_out[:, self.modelled]
        images = self._images(self.count)
        expected = _fitted(self.data, out | np.isnan(self.data), images) @ images.T
        difference = self.data - expected
        leverage = np.sum(images**2, axis=1)
        difference = np.where(out, difference, difference / np.maximum(1 - leverage, 0.05))
        self._fill(images, self.filled | out)
        cube = np.full(self.shape, np.nan)
        cube[:, self.modelled] = difference / self.weight
        return cube

    def _images(self, most):
        rows, columns = self.work.shape
        spectra, strength, images = np.linalg.svd(self.work, full_matrices=False)
        rest = max(np.sum(strength**2) - np.sum(strength[:most] ** 2), 0) / max((rows - most) * (columns - most), 1)
        edge = 1.15 * np.sqrt(rest) * (np.sqrt(rows) + np.sqrt(columns))
        kept = [
            k for k in range(most) if strength[k] > edge and np.sum(spectra[:, k] ** 4) * np.sum(images[k] ** 4) < 0.1
        ]
        return images[kept].T

    def _fill(self, images, filled):
        if not images.shape[1]:
            self.work = np.where(filled, 0.0, self.data)
            return
        spectra = np.linalg.qr(_fitted(self.data, filled, images))[0]
        self.work = np.where(filled, spectra @ _fitted(self.data.T, filled.T, spectra).T, self.data)


def _fitted(data, ignored, basis):
    count = basis.shape[1]
    out = np.zeros((len(data), count))
    for i, row in enumerate(data):
        use = ~ignored[i]
        out[i] = np.linalg.solve(basis[use].T @ basis[use] + 1e-5 * np.eye(count), basis[use].T @ row[use])
    return out
