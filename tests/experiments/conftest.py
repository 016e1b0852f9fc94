import pathlib
import sys

import numpy as np
import pytest

# Where `--model own_models:factory` finds the models of the tests.
sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture
def blobs():
  """Three classes of four numbers that a small network tells apart."""
  rng = np.random.default_rng(0)
  y = np.repeat(np.arange(3), 40)
  x = rng.normal(size=(120, 4)) + 3 * np.eye(4)[y]
  order = rng.permutation(120)
  x, y = x[order].astype(np.float32), y[order]
  country = np.array(["de", "fr", "it", "es"])[rng.integers(0, 4, 120)]
  return {"x": x, "y": y, "country": country}
