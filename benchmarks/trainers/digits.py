"""scikit-learn's handwritten digits, for every program alike."""

import numpy as np
from sklearn.datasets import load_digits

BATCH, EPOCHS = 50, 6


def digits() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return 1,400 images to train on and 397 to test with, as vectors of 64 numbers from 0 to 1."""
    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32), y.astype(np.int32)
    return {"x": x[:1400], "y": y[:1400]}, {"x": x[1400:], "y": y[1400:]}
