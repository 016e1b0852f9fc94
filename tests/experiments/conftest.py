import pathlib
import sys

import jax
import numpy as np
import pytest

# Where `--model own_models:factory` finds the models of the tests.
sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def compilation_cache(tmp_path_factory):
  """Programs that several tests compile are compiled once."""
  before = jax.config.jax_compilation_cache_dir
  folder = str(tmp_path_factory.mktemp("jax_cache"))
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
    yield
  jax.config.update("jax_compilation_cache_dir", before)


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
