"""What the project claims of its methods, on real data and five seeds."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxunlearn as ju
from experiments import forget
from experiments.bench import lanes
from experiments.benchmarks import phase, requests
from jaxunlearn.report.verdict import difference_interval

pytestmark = pytest.mark.optimized(reason="A claim about what users run.")


def rows_of(out):
  rows = json.loads((out / "results.json").read_text())["rows"]

  def column(method, metric):
    """[requests, seeds]."""
    mine = [r for r in rows if r["method"] == method]
    names = list(dict.fromkeys(r["request"] for r in mine))
    return np.array(
      [[r[metric] for r in mine if r["request"] == name] for name in names]
    )

  return column


@pytest.mark.slow
def test_one_class_of_digits_is_forgotten_and_the_rest_kept(tmp_path):
  out = tmp_path / "out"
  forget.main(
    [
      "--request=each-class",
      "--methods=unsir,bad_teacher",
      "--seeds=5",
      f"--out={out}",
    ]
  )
  column = rows_of(out)
  assert column("original", "forget_accuracy").mean() > 0.95
  kept = column("retrained", "retain_test_accuracy").mean(axis=1)
  for method, most_left, most_lost in [
    ("unsir", 0.02, 0.04),
    # Within three points on the mean over classes only; 4.7 on the worst, which
    # the ledger of BUILD_NOTES.md calls not reproduced.
    ("bad_teacher", 0.05, 0.06),
  ]:
    left = column(method, "forget_test_accuracy").mean(axis=1)
    lost = kept - column(method, "retain_test_accuracy").mean(axis=1)
    assert left.shape == (10,)
    assert left.max() <= most_left and lost.max() <= most_lost, method
    assert lost.mean() <= 0.03, method
  gap = {m: column(m, "retrained_gap").mean() for m in ("original", "unsir")}
  assert gap["unsir"] < gap["original"] / 5


@pytest.fixture(scope="module")
def without_data(tmp_path_factory):
  """Every class of digits, by methods without data or without steps."""
  out = tmp_path_factory.mktemp("claims") / "out"
  forget.main(
    [
      "--request=each-class",
      "--methods=zero_shot_noise,gkt,ssd_adaptive",
      "--seeds=5",
      f"--out={out}",
    ]
  )
  return rows_of(out)


@pytest.mark.slow
def test_every_class_of_digits_is_forgotten_without_data_or_steps(without_data):
  column = without_data
  for rows in ("", "_test"):
    before = column("original", f"retain{rows}_accuracy").mean(axis=1)
    known = column("original", f"forget{rows}_accuracy").mean(axis=1)
    assert known.min() > 0.9
    for method, most_left, most_lost in [
      ("zero_shot_noise", 0.05, 0.1),
      # Of the worst class 5 % are missed, see below.
      ("gkt", 1.0, 0.1),
      # It loses more than the 3 % that it should, see below.
      ("ssd_adaptive", 0.1 * known, 1.0),
    ]:
      left = column(method, f"forget{rows}_accuracy").mean(axis=1)
      lost = before - column(method, f"retain{rows}_accuracy").mean(axis=1)
      assert left.shape == (10,), method
      assert (left <= most_left).all() and (lost <= most_lost).all(), method
      assert left.mean() <= 0.05, method
  for method in ("zero_shot_noise", "gkt", "ssd_adaptive"):
    # The index and whether the target was reached, of every run.
    assert np.isin(column(method, "relearn_reached"), (0, 1)).all()
    index = column(method, "anamnesis_index").astype(float)
    defined = column("retrained", "relearn_reached") == 1
    np.testing.assert_array_equal(np.isfinite(index), defined)


@pytest.mark.slow
@pytest.mark.xfail(
  strict=True,
  raises=AssertionError,
  reason="of the worst class 5.8 % of test rows, with tuned settings",
)
def test_gkt_leaves_five_percent_of_no_class(without_data):
  for rows in ("", "_test"):
    left = without_data("gkt", f"forget{rows}_accuracy").mean(axis=1)
    assert left.shape == (10,) and (left <= 0.05).all()


@pytest.mark.slow
@pytest.mark.xfail(
  strict=True,
  raises=AssertionError,
  reason="3.5 % in the mean and 7 % by the worst class, with tuned settings",
)
def test_adaptive_dampening_loses_three_percent_at_most(without_data):
  lost = without_data("original", "retain_test_accuracy")
  lost = (lost - without_data("ssd_adaptive", "retain_test_accuracy")).mean(1)
  assert lost.shape == (10,) and (lost <= 0.03).all()


@pytest.mark.slow
def test_dampening_takes_no_step_and_a_twentieth_of_the_time_of_retraining():
  plan = forget.prepare(forget.Options(seeds=1, methods="ssd"))
  own = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), plan.beds.of_seed)
  bed = plan.beds.make(None, own)
  original = lanes.at(lanes.train(plan).value, 0)
  mask, key = jnp.asarray(plan.forget[0]), jax.random.key(0)
  method = plan.study.methods["ssd"].build(bed, plan.settings["ssd"])
  retrain = ju.methods.retrain(bed.model, bed.recipe.fit)

  def fastest(transform):
    times = []
    for _ in range(6):  # The first one compiles.
      start = time.perf_counter()
      jax.block_until_ready(transform.compiled(original, bed.data, mask, key))
      times.append(time.perf_counter() - start)
    return transform.num_steps, min(times)

  (steps, ours), (_, retraining) = fastest(method), fastest(retrain)
  assert steps == 0 and retraining >= 20 * ours


@pytest.mark.slow
def test_on_a_random_tenth_no_method_is_shown_to_be_nearer_than_salun(tmp_path):
  """Nor is SalUn nearer than the original model by chance alone."""
  out = tmp_path / "out"
  forget.main(
    ["--request=random:0.1", "--methods=all", "--seeds=10", f"--out={out}"]
  )
  column = rows_of(out)
  names = json.loads((out / "results.json").read_text())["config"]["settings"]
  gaps = {name: column(name, "salun_gap")[0] for name in names}
  assert len(gaps) >= 18
  best = min(gaps, key=lambda name: gaps[name].mean())
  low, _ = difference_interval(gaps["salun"], gaps[best])
  assert low <= 0
  original = column("original", "salun_gap")[0]
  assert difference_interval(gaps["salun"], original)[1] < 0


@pytest.mark.slow
def test_cifar10_from_the_data_folder_runs_end_to_end(tmp_path, data_dir):
  if not (data_dir / "cifar10_train.npz").is_file():
    pytest.skip("the data folder has no cifar10_train.npz")
  out = tmp_path / "out"
  forget.main(
    [
      "--data=cifar10",
      f"--data-dir={data_dir}",
      "--model=cnn",
      "--preset=smoke",
      "--methods=finetune",
      "--seeds=1",
      f"--out={out}",
    ]
  )
  column = rows_of(out)
  assert np.isfinite(column("finetune", "test_accuracy")).all()
  assert (out / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_benchmarks_run(tmp_path):
  rows = phase.main(phase.Options(1, 3, str(tmp_path / "phase.json")))
  assert len(rows) == 4 and all(row["ratio"] > 0 for row in rows)
  rows = requests.main(requests.Options(1, 3, str(tmp_path / "requests.json")))
  assert {row["work"] for row in rows} == {"unsir", "retrain"}
  assert json.loads((tmp_path / "requests.json").read_text())["rows"] == rows
