"""Densities in figures."""

import math

import numpy as np
import pytest

from jaxunlearn.report import densities


def test_a_density_integrates_to_one_and_ignores_what_is_not_finite():
  values = np.random.default_rng(0).normal(size=2000)
  grid = np.linspace(-6, 6, 240)
  density = densities.density(np.append(values, [np.nan, np.inf]), grid)
  step = grid[1] - grid[0]
  assert density.sum() * step == pytest.approx(1, abs=0.01)
  normal = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
  assert np.abs(density - normal).max() < 0.05
  assert densities.density(np.full(3, np.nan), grid).max() == 0
  # All the same: a peak and no division by zero.
  assert np.isfinite(densities.density(np.ones(9), grid)).all()
