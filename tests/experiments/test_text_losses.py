"""Losses and gradients of the methods for text beside their formulas in PyTorch."""

import pytest

from experiments.benchmarks import text_losses


@pytest.mark.slow
@pytest.mark.parametrize("name", text_losses.METHODS)
def test_a_method_has_the_loss_and_gradient_of_its_formula(name):
  pytest.importorskip("torch")
  options = text_losses.Options(preset="smoke", repeats=1)
  found = text_losses.compare(options, name)
  assert found["loss_apart"] < 1e-5 and found["gradient_apart"] < 1e-4


def test_what_cannot_be_compared_is_refused(capsys):
  for options in (
    text_losses.Options(methods=("magic",)),
    text_losses.Options(repeats=0),
  ):
    with pytest.raises(SystemExit) as error:
      text_losses.main(options)
    assert error.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
