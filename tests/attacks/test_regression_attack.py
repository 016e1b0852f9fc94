import numpy as np
import pytest
from refusals import refused

from jaxunlearn.attacks.regression import regression_attack


def test_a_model_that_remembers_is_told_from_one_that_does_not():
  rng = np.random.default_rng(0)
  train, test = rng.random(200) * 0.2, rng.random(150) * 2
  remembered = regression_attack(train, test, rng.random(80) * 0.2)
  forgotten = regression_attack(train, test, rng.random(80) * 2)
  assert remembered.forget > 0.9 > 0.5 > forgotten.forget
  assert remembered.train > 0.9 and remembered.test < 0.3


def test_the_seed_decides_the_subsets():
  rng = np.random.default_rng(2)
  rows = rng.random(300), rng.random(300) + 0.3, rng.random(200)
  one, again, other = (
    regression_attack(*rows, max_rows=60, seed=s) for s in (0, 0, 1)
  )
  assert one == again
  assert one != other
  # Sixty rows at most of each kind.
  for share in one:
    assert abs(share * 60 - round(share * 60)) < 1e-9


def test_an_empty_forget_set_gives_nan():
  found = regression_attack(np.ones(4), np.zeros(4), np.zeros(0))
  assert np.isnan(found.forget) and found.train == 1


def test_bad_arguments_are_refused():
  good = np.ones(4)
  with pytest.raises(ValueError, match=r"train_errors \[N\], got shape"):
    regression_attack(np.ones((4, 1)), good, good)
  with pytest.raises(ValueError, match="test_errors to be finite"):
    regression_attack(good, good * np.nan, good)
  with pytest.raises(ValueError, match=r"forget_errors >= 0, got -1\.0"):
    regression_attack(good, good, -good)
  with pytest.raises(ValueError, match="train_errors of some rows"):
    regression_attack(np.zeros(0), good, good)
  with pytest.raises(ValueError, match="test_errors of some rows"):
    regression_attack(good, np.zeros(0), good)
  refused("max_rows > 0", regression_attack, good, good, good, max_rows=0)
