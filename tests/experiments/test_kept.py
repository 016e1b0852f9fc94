"""A stopped run goes on with the models that it had made, and with no others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import audit_diffusion, common, staging
from experiments.bench.kept import Kept
from jaxunlearn import report

DATA = jnp.arange(6.0)
LANES = [{"data": DATA, "key": jax.random.key(i)} for i in range(3)]


def trained(rate=0.5):
  return lambda data, key: {"w": rate * data + jax.random.normal(key, (6,))}


class Stopped(BaseException):
  """In the place of a kill."""


@pytest.fixture
def made(monkeypatch):
  """The lanes that were computed; `made.most` of them before a kill."""

  class Made(list):
    most = 99

  seen, timed_all = Made(), common.timed_all

  def counting(fn, runs, done):
    def tell(name, one):
      done(name, one)
      seen.append(name)
      if len(seen) == seen.most:
        raise Stopped

    return timed_all(fn, runs, tell)

  monkeypatch.setattr(common, "timed_all", counting)
  return seen


def test_what_was_made_is_not_made_again(tmp_path, made):
  wanted = [trained()(**lane)["w"] for lane in LANES]
  kept = Kept(tmp_path, {"concept": "object:three"})
  made.most = 2
  with pytest.raises(Stopped):
    kept.timed_all("esd", trained(), LANES)
  found = kept.timed_all("esd", trained(), LANES)
  assert made == [0, 1, 2]
  for one, right in zip(found, wanted, strict=True):
    np.testing.assert_allclose(one.value["w"], right, rtol=1e-6)
  again = kept.timed_all("esd", trained(), LANES)
  assert made == [0, 1, 2]
  for one, other in zip(found, again):
    np.testing.assert_array_equal(one.value["w"], other.value["w"])
    assert one.seconds == other.seconds
    assert tuple(one.memory) == tuple(other.memory)
  # Of fewer seeds the first, of more those that are there.
  assert len(kept.timed_all("esd", trained(), LANES[:1])) == 1


@pytest.mark.parametrize(
  ("run", "rate", "change", "said"),
  [
    ({"concept": "style:ember"}, 0.5, {}, "concept object:three"),
    ({"concept": "object:three"}, 0.4, {}, "other settings"),
    ({"concept": "object:three"}, 0.5, {"data": DATA + 1}, "other data"),
    ({"concept": "object:three"}, 0.5, {"key": jax.random.key(9)}, "other key"),
  ],
)
def test_models_of_another_run_are_refused(tmp_path, run, rate, change, said):
  first = Kept(tmp_path, {"concept": "object:three"})
  first.timed_all("esd", trained(), LANES[:1])
  lane = {**LANES[0], **change}
  with pytest.raises(common.UnusableError, match=said) as error:
    Kept(tmp_path, run).timed_all("esd", trained(rate), [lane])
  assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_what_was_kept_goes_with_the_run_that_has_finished(tmp_path):
  out = tmp_path / "out"
  Kept(out, {}).timed_all("esd", trained(), LANES)
  (out / "mine.txt").write_text("precious")
  with pytest.raises(Stopped), staging.staged_output(out):
    raise Stopped
  assert (out / staging.KEPT).exists()
  with staging.staged_output(out) as folder:
    (folder / "results.json").write_text("{}")
  assert not (out / staging.KEPT).exists()
  assert (out / "mine.txt").read_text() == "precious"


@pytest.mark.slow
@pytest.mark.parametrize("most", [2, 7])
def test_a_stopped_audit_ends_as_one_that_was_not(tmp_path, made, most, capsys):
  argv = ["--preset", "smoke", "--methods", "uce", "--attacked", "0", "--out"]
  audit_diffusion.main([*argv, str(tmp_path / "whole")])
  # The classifier, the original and two retrained ones, what all are measured
  # by, three measured, a lane a seed, and what that is.
  whole = [0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 1, 0]
  assert made == whole
  made.clear()
  made.most, out = most, tmp_path / "out"
  with pytest.raises(Stopped):
    audit_diffusion.main([*argv, str(out)])
  assert not (out / "results.json").exists()
  capsys.readouterr()
  with pytest.raises(SystemExit) as stop:
    audit_diffusion.main([*argv, str(out), "--concept", "style:sea"])
  error = capsys.readouterr().err
  assert stop.value.code == 2 and "concept object:three" in error
  assert len(made) == most
  audit_diffusion.main([*argv, str(out)])
  assert made == whole
  once, gone_on = (
    report.read_results(tmp_path / name / "results.json").rows
    for name in ("whole", "out")
  )
  for one, other in zip(once, gone_on, strict=True):
    for name in ("ua", "cra", "excess", "crs_forget", "kid_original"):
      assert one[name] == other[name]
  assert not (out / staging.KEPT).exists()
