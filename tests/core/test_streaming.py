import pathlib
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from refusals import refused

import jaxunlearn as ju
from jaxunlearn.core import streaming

KEY = jax.random.key(0)
CHILD = pathlib.Path(__file__).parent / "stream_child.py"


def method(model):
  return ju.chain(
    ju.phase(
      ju.supervised(model),
      optax.sgd(0.02),
      3,
      draw=ju.Draw(forget=4, retain=8),
      forget_weight=-0.2,
      name="push",
    ),
    ju.repeat(
      ju.phase(
        ju.supervised(model), optax.adam(0.01), 4, draw=ju.Draw(retain=8)
      ),
      2,
    ),
    name="push_and_heal",
  )


def host(data):
  return jax.tree.map(np.asarray, data)


@pytest.mark.slow
def test_stream_equals_the_call_on_the_same_draws():
  model, data, variables = problems.trained()
  mask = data["label"] == 1
  called, info = jax.jit(method(model))(variables, data, mask, KEY)
  streamed, infos = ju.stream(
    method(model),
    variables,
    ju.core.host_batches(host(data), mask),
    KEY,
    data=data,
    request=mask,
  )
  chex.assert_trees_all_close(streamed, called, rtol=1e-5, atol=1e-6)
  assert [name for name, _ in infos] == ["push", "phase", "phase"]
  chex.assert_trees_all_close(infos[0][1].loss, info["push"].loss, rtol=1e-5)
  for i in range(2):
    chex.assert_trees_all_close(
      infos[i + 1][1].loss, info["phase"].loss[i], rtol=1e-5
    )
  assert infos[0][1].forget_count == 15 and infos[0][1].retain_count == 45


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unsir", "bad_teacher", "scrub", "masked"])
def test_methods_stream_as_they_run(name):
  model, data, variables = problems.trained()
  transform = {
    "unsir": ju.methods.unsir(
      model,
      4,
      max_classes=1,
      noise=ju.Fit(optax.adam(0.1), 3, 8),
      impair=ju.Fit(optax.adam(0.02), 3, 8),
      repair=ju.Fit(optax.adam(0.01), 2, 8),
    ),
    "bad_teacher": ju.methods.bad_teacher(model, num_steps=4, batch_size=8),
    "scrub": ju.methods.scrub(
      model,
      ju.Fit(optax.adam(1e-3), 2, 8),
      num_epochs=2,
      max_epochs=1,
      max_steps=2,
      forget_batch_size=4,
    ),
    "masked": ju.masked(method(model), {"hidden": False, "output": True}),
  }[name]
  mask = data["label"] == 1
  called, _ = jax.jit(transform)(variables, data, mask, KEY)
  streamed, _ = ju.stream(
    transform,
    variables,
    ju.core.host_batches(host(data), mask),
    KEY,
    data=data,
    request=mask,
  )
  chex.assert_trees_all_close(streamed, called, rtol=1e-4, atol=1e-5)


def batches_for(data, mask):
  """The batches of `method` as a plain iterator, padded by a dead row."""
  rng = np.random.default_rng(0)
  data, mask = host(data), np.asarray(mask)
  for step in range(11):
    pick = lambda rows, n: rng.choice(np.flatnonzero(rows), n)
    rows = pick(~mask, 8)
    if step < 3:
      rows = np.concatenate([pick(mask, 4), rows])
    batch = ju.core.host_batch(
      {"x": data["x"][rows], "label": data["label"][rows]},
      mask[rows],
      start=100 * step,
    )
    batch.weight[-1] = 0
    batch.rows["x"][-1] = np.nan
    yield batch


def test_any_iterator_of_batches_will_do_and_padding_is_not_read():
  model, data, variables = problems.trained()
  mask = data["label"] == 1
  out, infos = ju.stream(
    method(model), variables, batches_for(data, mask), KEY, progress=False
  )
  assert all(bool(info.is_finite) for _, info in infos)
  assert infos[0][1].forget_count == -1
  moved = out.params["output"]["kernel"] - variables.params["output"]["kernel"]
  assert jnp.abs(moved).max() > 1e-3


def test_batches_that_end_early_are_reported():
  model, data, variables = problems.trained()
  few = list(batches_for(data, data["label"] == 1))[:5]
  with pytest.raises(ValueError, match="Expected 4 batches for phase, got 2"):
    ju.stream(method(model), variables, few, KEY)


class Stop(Exception):
  pass


@pytest.mark.parametrize("stop_at", [3, 7])
def test_a_run_broken_anywhere_resumes_to_the_same_bits(tmp_path, stop_at):
  model, data, variables = problems.trained()
  mask = data["label"] == 1
  whole, infos = ju.stream(
    method(model), variables, batches_for(data, mask), KEY
  )

  def broken():
    for number, batch in enumerate(batches_for(data, mask)):
      if number == stop_at:
        raise Stop
      yield batch

  again = lambda batches: ju.stream(
    method(model),
    variables,
    batches,
    KEY,
    checkpoint_dir=tmp_path / "run",
    checkpoint_every=2,
  )
  with pytest.raises(Stop):
    again(broken())
  resumed, resumed_infos = again(batches_for(data, mask))
  chex.assert_trees_all_equal(resumed, whole)
  assert [n for n, _ in resumed_infos] == [n for n, _ in infos]
  for (_, a), (_, b) in zip(infos, resumed_infos):
    np.testing.assert_array_equal(a.loss, b.loss)


RUN = {
  "rate": 0.1,
  "first": 0.1,
  "scale": 1.0,
  "shift": np.zeros(2, np.float32),
  "optimizer": optax.sgd,
  "edit": 1.0,
  "data": np.arange(6, dtype=np.float32),
  "mask": np.arange(6) < 1,
  "key": KEY,
  "start": 0.0,
}


def serve(directory, *, stop_at=None, **changes):
  """Two phases and an edit between them, made anew, as in another process."""
  run = {**RUN, **changes}

  def objective(variables, batch, key):
    del key
    x = batch.rows["x"] + jnp.asarray(run["shift"])
    return run["scale"] * (variables.params - x) ** 2

  fit = lambda optimizer: ju.phase(
    objective, optimizer, 2, draw=ju.Draw(retain=2)
  )
  transform = ju.chain(
    fit(optax.sgd(run["first"])),
    ju.edit(lambda v, *_: jax.tree.map(lambda x: x * run["edit"], v)),
    fit(run["optimizer"](run["rate"])),
  )
  source = ju.core.host_batches({"x": run["data"]}, run["mask"])

  def batches(link, key, step):
    for i, batch in enumerate(source(link, key, step)):
      if stop_at is not None and link is links[-1][0] and i == stop_at:
        raise Stop
      yield batch

  batches.request = source.request
  links = transform.expand(run["key"])
  return ju.stream(
    transform,
    jnp.float32(run["start"]),
    batches,
    run["key"],
    data={"x": run["data"]},
    request=run["mask"],
    checkpoint_dir=directory,
    checkpoint_every=1,
    progress=False,
  )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Directories of one run that was stopped and of one that ended."""
  stopped = tmp_path_factory.mktemp("stopped")
  with pytest.raises(Stop):
    serve(stopped, stop_at=1)
  ended = tmp_path_factory.mktemp("ended")
  whole, _ = serve(ended)
  return stopped, ended, whole


@pytest.mark.parametrize(
  ("changes", "differs"),
  [
    ({"rate": 10.0}, "other settings of phase;"),
    ({"first": 0.2}, "other settings of phase;"),
    ({"scale": 2.0}, "other settings of phase;"),
    ({"shift": np.array([0, 1], np.float32)}, "other settings of phase;"),
    ({"rate": lambda step: 0.1}, "other settings of phase;"),
    ({"optimizer": optax.adam}, "other settings of phase;"),
    (
      {"optimizer": optax.inject_hyperparams(optax.sgd)},
      "other settings of phase;",
    ),
    ({"edit": 2.0}, "other settings of edit;"),
    ({"data": RUN["data"] + 1}, "another data;"),
    ({"mask": np.arange(6) < 2}, "another request;"),
    ({"key": jax.random.key(9)}, "another key;"),
    ({"start": 1.0}, "another variables;"),
    ({"start": 1.0, "mask": np.arange(6) < 2}, "another .*, another request;"),
  ],
)
def test_another_run_is_refused_and_what_differs_is_named(
  runs, changes, differs
):
  message = f"this run or .* with {differs}"
  for directory in runs[:2]:  # Stopped, and ended.
    with pytest.raises(ValueError, match=message) as told:
      serve(directory, **changes)
    assert "\n" not in str(told.value)


def test_the_same_run_made_anew_goes_on(runs, tmp_path):
  stopped, ended, whole = runs
  again = tmp_path / "again"
  shutil.copytree(stopped, again)
  assert serve(again)[0] == whole
  assert serve(ended)[0] == whole
  rate = optax.inject_hyperparams(optax.sgd)
  serve(tmp_path / "other", optimizer=rate)
  with pytest.raises(ValueError, match="other settings of phase"):
    serve(tmp_path / "other", optimizer=rate, rate=0.2)


def test_what_is_no_run_is_refused():
  fit = ju.phase(problems.quadratic(), optax.sgd(0.1), 1)
  wrong = [
    ((fit, jnp.float32(0), [], 5), {}, "typed PRNG key"),
    (
      (ju.methods.finetune, jnp.float32(0), [], KEY),
      {},
      "Transform, got function",
    ),
    ((fit, jnp.float32(0), 5, KEY), {}, "batches to be .*, got int"),
    (
      (fit, jnp.float32(0), [], KEY),
      {"checkpoint_every": 2.5},
      "checkpoint_every to be a whole number",
    ),
  ]
  for args, options, message in wrong:
    refused(message, ju.stream, *args, **options)
  draws = ju.phase(
    problems.quadratic(), optax.sgd(0.1), 1, draw=ju.Draw(retain=1)
  )
  with pytest.raises(ValueError, match="host_batch makes them, got dict"):
    ju.stream(draws, jnp.float32(0), [{"x": np.ones(1)}], KEY)


def test_rows_of_the_wrong_kind_or_number_are_refused():
  model, data, variables = problems.trained()
  fit = ju.methods.finetune(
    model, optimizer=optax.sgd(0.1), num_steps=1, batch_size=4
  )
  rows = jax.tree.map(lambda x: np.asarray(x[:4]), data)
  with pytest.raises(ValueError, match=r"the other kind at \[0, 1, 2, 3\]"):
    ju.stream(fit, variables, [ju.core.host_batch(rows, np.ones(4, bool))], KEY)
  fewer = jax.tree.map(lambda x: x[:3], rows)
  with pytest.raises(ValueError, match="a batch of 4 rows for finetune"):
    ju.stream(
      fit, variables, [ju.core.host_batch(fewer, np.zeros(3, bool))], KEY
    )


def test_a_link_without_its_data_is_named():
  model, data, variables = problems.trained()
  transform = ju.methods.unsir(model, num_classes=4, input_shape=(6,))
  source = ju.core.host_batches(host(data), data["label"] == 1)
  with pytest.raises(ValueError, match="data for 'noise classes', which reads"):
    ju.stream(transform, variables, source, KEY)


def test_phases_that_draw_nothing_take_no_batch_from_an_iterable():
  model, data, variables = problems.trained()
  nothing = ju.phase(lambda v, b, k: jnp.zeros(1), optax.sgd(0.1), 3)
  fit = ju.methods.finetune(
    model, optimizer=optax.sgd(0.1), num_steps=2, batch_size=8
  )
  mask = np.asarray(data["label"] == 1)
  rows = jax.tree.map(lambda x: np.asarray(x)[~mask][:8], data)
  two = [ju.core.host_batch(rows, np.zeros(8, bool))] * 2
  _, infos = ju.stream(ju.chain(nothing, fit), variables, two, KEY)
  assert [len(info.loss) for _, info in infos] == [3, 2]


def test_bare_params_come_back_bare():
  fit = ju.phase(
    problems.quadratic(), optax.sgd(0.1), 2, draw=ju.Draw(retain=2)
  )
  data, mask = {"x": np.arange(4.0, dtype=np.float32)}, np.zeros(4, bool)
  out, _ = ju.stream(fit, jnp.float32(0), ju.core.host_batches(data, mask), KEY)
  called, _ = fit(jnp.float32(0), data, mask, KEY)
  chex.assert_trees_all_close(out, called, rtol=1e-6)


def test_the_original_stays_usable():
  model, data, variables = problems.trained()
  before = jax.tree.map(np.array, variables)
  ju.stream(
    method(model), variables, batches_for(data, data["label"] == 1), KEY
  )
  chex.assert_trees_all_equal(jax.tree.map(np.asarray, variables), before)


def test_a_step_is_traced_once_for_all_rounds_and_requests():
  model, data, variables = problems.trained()
  counted, traces = problems.counting(model)
  inner = ju.phase(
    ju.supervised(counted), optax.sgd(0.1), 2, draw=ju.Draw(retain=8)
  )
  inner = ju.masked(inner, {"hidden": True, "output": True})
  seen = []
  for rounds, c in [(1, 1), (5, 1), (5, 3)]:
    ju.stream(
      ju.repeat(inner, rounds),
      variables,
      ju.core.host_batches(host(data), data["label"] == c),
      KEY,
    )
    seen.append(len(traces))
  assert seen[0] == seen[1] == seen[2] > 0


def test_a_mask_that_needs_the_data_is_refused():
  model, _, variables = problems.trained()
  transform = ju.masked(method(model), lambda *_: True)
  with pytest.raises(ValueError, match="weight_mask to be a pytree"):
    ju.stream(transform, variables, [], KEY)


def test_a_batch_with_a_wrong_flag_is_rejected():
  with pytest.raises(ValueError, match=r"forget bool \[3\]"):
    ju.core.host_batch({"x": np.zeros((3, 2))}, np.zeros(2, bool))
  with pytest.raises(ValueError, match=r"weight \[3\]"):
    ju.core.host_batch({"x": np.zeros((3, 2))}, np.zeros(3, bool), np.ones(2))


@pytest.mark.parametrize(("after", "shown"), [(0.0, True), (1e9, False)])
def test_a_progress_bar_comes_up_in_long_runs_only(
  capsys, monkeypatch, after, shown
):
  monkeypatch.setattr(streaming, "_SHOW_AFTER", after)
  monkeypatch.setenv("FORCE_COLOR", "1")  # Rich then takes it for a terminal.
  transform = ju.edit(lambda v, *_: v, name="quiet")
  with streaming._progress(transform, True) as update:
    time.sleep(0.25)
    update(2, "b", jnp.float32(0.5))
  text = capsys.readouterr()
  assert ("quiet: b, loss 0.5" in text.err) == shown
  assert text.out == ""


@pytest.mark.slow
def test_kill_nine_in_the_middle_and_the_same_bits_in_the_end(tmp_path):
  def child(name, *flags):
    return subprocess.Popen(
      [sys.executable, str(CHILD), str(tmp_path / name), *flags],
      stdout=subprocess.PIPE,
      text=True,
    )

  with child("whole") as whole:
    digest = whole.communicate()[0].strip().splitlines()[-1]
  assert whole.returncode == 0 and digest.startswith("digest ")

  with child("killed", "--slow") as killed:
    steps = tmp_path / "killed"
    deadline = time.monotonic() + 120
    while not list(steps.glob("[0-9]*")) and time.monotonic() < deadline:
      time.sleep(0.05)
    time.sleep(0.4)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert "digest" not in killed.stdout.read()

  with child("killed") as resumed:
    out = resumed.communicate()[0].strip().splitlines()
  assert resumed.returncode == 0
  assert out[-1] == digest
  # It went on, it did not start again.
  assert int(out[-2].removeprefix("first step ")) > 0
