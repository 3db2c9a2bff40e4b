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
    shape = values.shape
    noise = _errors(values, err)
    threshold = nsigma - 2
    across_wavelengths = wavelength_test and shape[0] >= 3
    spikes = np.zeros(shape, bool)
    model = None
    if across_wavelengths:
        local = _local_deviation(values, noise, window)
        spikes = _suspects(local, noise)
        model = _Model(values, noise, spikes, local)
    for _ in range(iterations):
        if not across_wavelengths:
            deviation = values - _each(_without(values, spikes), lambda a, v: _median(_box(a, v, box_size // 2)))
        elif model.count:
            deviation = np.where(model.modelled, model.deviation(spikes), local)
        else:
            deviation = local
            if spikes.any():
                deviation = values - _local_expectation(_without(values, spikes), noise, window)
            local = deviation
        sigma = noise * _image_scale(deviation, noise)[:, None, None]
        if across_wavelengths:
            sigma = sigma * _spaxel_scale(deviation, sigma)
        unflagged = _without(deviation, spikes)
        found = np.zeros(shape, bool)
        for voxel in np.ndindex(shape):
            found[voxel] = _is_spike(
                deviation[voxel],
                unflagged,
                voxel,
                threshold * sigma[voxel],
                box_size if across_wavelengths and median_test else None,
                window if across_wavelengths else None,
                np.broadcast_to(psf_fwhm, shape[0])[voxel[0]] if sharpness_test else None,
                _without(local, spikes) if across_wavelengths else None,
                local[voxel] if across_wavelengths else None,
            )
        if np.array_equal(found, spikes):
            break
        spikes = found
    return spikes


def _is_spike(value, image, voxel, least, box_size, window, fwhm, local_image, local_value) -> bool:
    if not abs(value) > least:
        return False
    background = 0.0
    if window is not None and not abs(value - _number(_median(_spectral_neighbours(image, voxel, window)))) > least:
        return False
    if box_size is not None:
        background = _number(_median(_box(image, voxel, box_size // 2)))
        if not abs(value - background) > least:
            return False
    if fwhm is None:
        return True
    edge = np.exp(-4 * np.log(2) / fwhm**2)
    share = 0.5 * (4 * edge + 4 * edge**2) / 8
    around = _eight(image, voxel)
    around = around[np.isfinite(around)] - background
    excess = value - background
    if around.size < 3 or not np.sign(excess) * around.mean() < share * abs(excess):
        return False
    if abs(excess) <= (1 - 1e-4) * abs(around).max():
        return False
    if local_image is not None and np.isfinite(local_value):
        around = _eight(local_image, voxel)
        around = around[np.isfinite(around)]
        return around.size < 3 or bool(np.sign(local_value) * around.mean() < share * abs(local_value))
    return True


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
    out = np.ones(deviation.shape[1:])
    for place in np.ndindex(out.shape):
        ratio = np.abs(deviation[:, *place]) / sigma[:, *place]
        if np.isfinite(ratio).sum() >= 25:
            out[place] = max(1.0, 1.4826 * _median(ratio))
    return out


def _suspects(deviation, noise):
    ratio = np.abs(deviation) / (noise * _image_scale(deviation, noise)[:, None, None])
    ratio = np.where(np.isfinite(ratio), ratio, 0.0)
    return _each(ratio, lambda a, v: a[v] > 5 and a[v] >= max(_eight(a, v), default=0)).astype(bool)


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
