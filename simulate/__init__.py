"""A JWST that runs on a laptop: planets, telescope, detectors, reference files and kernels with known truth."""
