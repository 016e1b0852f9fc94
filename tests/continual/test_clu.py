"""CLU: its losses, its limits and what its sheet of checks asks for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from refusals import refused

import jaxunlearn.continual as co
from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.continual.clu import default_decay
from jaxunlearn.continual.views import turned_crops
from jaxunlearn.core.types import Variables
from jaxunlearn.losses import contrastive

KEY = jax.random.key(0)
DATA = problems.blobs(24)
TASK = DATA["label"] // 2
NONE = jnp.zeros(24, bool)
# One step over as many rows as the task has: the order does not matter.
RECIPE = {"optimizer": optax.sgd(0.5), "num_steps": 1, "batch_size": 12}
KEPT = {**RECIPE, "buffer_size": 16, "replay_batch_size": 16}
ALONE = {"replay_weight": 0.0, "distil_weight": 0.0}


def start(learner, model=None, data=DATA):
  model = model or problems.mlp()
  variables = jax.jit(model.init)(jax.random.key(1), data["x"][:1])
  return learner.init(variables, data, jax.random.key(2))


def forward(params, x):
  h = np.maximum(x @ params["hidden"]["kernel"] + params["hidden"]["bias"], 0)
  return h @ params["output"]["kernel"] + params["output"]["bias"]


def float64(tree):
  return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def event(learner, *args):
  return jax.jit(learner.event)(*args)


def log_softmax(z):
  z = z - z.max(axis=-1, keepdims=True)
  return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


@pytest.mark.slow
def test_a_forget_step_descends_the_divergence_to_the_untrained_network():
  learner = co.clu(problems.mlp(), **ALONE, **KEPT)
  state = start(learner)
  # The ledger says what is learned; here without having trained on it.
  state = state._replace(ledger=co.Ledger(TASK == 0))
  out, info = event(learner, state, DATA, NONE, TASK == 0, KEY)
  x = np.asarray(DATA["x"], np.float64)[np.asarray(TASK) == 0]
  params = float64(state.variables.params)
  other = float64(state.memory.incompetent.params)
  p, q = log_softmax(forward(params, x)), log_softmax(forward(other, x))
  kl = (np.exp(q) * (q - p)).sum(axis=1).mean()
  np.testing.assert_allclose(info.loss, kl, rtol=1e-5)
  h = np.maximum(x @ params["hidden"]["kernel"] + params["hidden"]["bias"], 0)
  slope = (np.exp(p) - np.exp(q)) / len(x)
  moved = out.variables.params["output"]
  np.testing.assert_allclose(
    moved["kernel"], params["output"]["kernel"] - 0.5 * h.T @ slope, atol=1e-6
  )
  np.testing.assert_allclose(moved["bias"], -0.5 * slope.sum(0), atol=1e-6)


@pytest.mark.slow
def test_a_step_with_all_parts_equals_their_sum_computed_apart():
  options = {
    "forget_weight": 0.8,
    "replay_weight": 0.7,
    "distil_weight": 0.3,
    "temperature": 2.0,
    "teacher": co.Teacher(temperature=1.5),
  }
  data = problems.blobs(36)
  part = np.arange(36) // 12  # A third each: in the buffer, new, to forget.
  kept = {**KEPT, "batch_size": 24}
  model = problems.mlp()
  first = co.clu(model, **{**kept, "batch_size": 12})
  state = start(first, data=data)
  none = jnp.zeros(36, bool)
  state, _ = event(first, state, data, jnp.asarray(part == 0), none, KEY)
  state = state._replace(
    ledger=co.Ledger(jnp.asarray(part != 1)),
    # A teacher of its own, so that the distillation is not 0.
    memory=state.memory._replace(
      teacher=jax.jit(model.init)(jax.random.key(8), data["x"][:1])
    ),
  )
  x, label = np.asarray(data["x"], np.float64), np.asarray(data["label"])
  outputs = lambda variables: forward(float64(variables.params), x)
  student = outputs(state.variables)
  teacher = outputs(state.memory.teacher)
  other = outputs(state.memory.incompetent)
  ce = -log_softmax(student)[np.arange(36), label]
  q = log_softmax(other / 2)
  kl = (np.exp(q) * (q - log_softmax(student / 2))).sum(axis=1)
  sure = np.exp(log_softmax(teacher / 1.5))[np.arange(36), label]
  online = sure * ((student - teacher) ** 2).mean(axis=1)
  keep = ce[part == 1].mean() + 0.7 * ce[part == 0].mean()
  keep += 0.3 * online[part == 0].mean()
  lose = 0.8 * kl[part == 2].mean()
  for gamma, wanted in ((None, keep + lose), (0.25, 0.25 * keep + 0.75 * lose)):
    learner = co.clu(model, gamma=gamma, **options, **kept)
    _, info = event(
      learner, state, data, jnp.asarray(part == 1), jnp.asarray(part == 2), KEY
    )
    np.testing.assert_allclose(info.loss, wanted, rtol=1e-5)


@pytest.mark.slow
def test_the_teacher_stays_at_rate_0_and_is_the_student_at_decay_0():
  frozen = co.clu(problems.mlp(), teacher=co.Teacher(0.0), **KEPT)
  state = start(frozen)
  out, _ = event(frozen, state, DATA, TASK == 0, NONE, KEY)
  chex.assert_trees_all_equal(out.memory.teacher, state.variables)
  assert not np.array_equal(
    out.variables.params["output"]["bias"],
    state.variables.params["output"]["bias"],
  )
  recipe = {**KEPT, "num_steps": 7}
  copied = co.clu(problems.mlp(), teacher=co.Teacher(1.0, 0.0), **recipe)
  out, _ = event(copied, start(copied), DATA, TASK == 0, NONE, KEY)
  chex.assert_trees_all_equal(out.memory.teacher, out.variables)


@pytest.mark.slow
def test_the_teacher_is_the_capped_moving_average_of_the_student():
  def path(steps):
    learner = co.clu(
      problems.mlp(),
      teacher=co.Teacher(1.0, 0.6),
      **ALONE,
      **{**KEPT, "num_steps": steps},
    )
    state, _ = event(learner, start(learner), DATA, TASK == 0, NONE, KEY)
    bias = lambda v: np.asarray(v.params["output"]["bias"], np.float64)
    return bias(state.variables), bias(state.memory.teacher)

  students = [path(n)[0] for n in (1, 2, 3, 4)]
  teacher = np.zeros(4)
  for step, student in enumerate(students):
    decay = min(1 - 1 / (step + 1), 0.6)
    teacher = decay * teacher + (1 - decay) * student
  np.testing.assert_allclose(path(4)[1], teacher, rtol=1e-5)
  assert default_decay(0) == 0 and default_decay(150) == 0.98
  assert default_decay(10**6) == 0.999


@pytest.mark.slow
def test_leaving_out_the_own_class_teaches_that_it_is_another():
  recipe = {**KEPT, "num_steps": 60, "optimizer": optax.sgd(0.2)}
  right = {}
  model = problems.mlp()
  # An untrained network that happens to be right about what is to be forgotten.
  knowing = co.naive(model, **{**RECIPE, "num_steps": 60})
  expert, _ = event(knowing, start(knowing), DATA, ~NONE, NONE, KEY)
  for exclude in (False, True):
    learner = co.clu(
      model, untrained=co.Untrained(expert.variables, exclude), **recipe
    )
    state = start(learner)
    state, _ = event(learner, state, DATA, ~NONE, NONE, KEY)
    state, info = event(learner, state, DATA, NONE, TASK == 0, KEY)
    assert bool(info.is_finite)
    hit = learner.predict(state, DATA["x"]).argmax(1) == DATA["label"]
    right[exclude] = float(hit[TASK == 0].mean())
  assert right[False] > 0.8 and right[True] == 0


def test_the_labels_of_forget_rows_are_not_read():
  learner = co.clu(problems.mlp(), **{**KEPT, "num_steps": 4})
  state, _ = event(learner, start(learner), DATA, ~NONE, NONE, KEY)
  other = {**DATA, "label": jnp.where(TASK == 0, 3, DATA["label"])}
  ends = [event(learner, state, d, NONE, TASK == 0, KEY) for d in (DATA, other)]
  chex.assert_trees_all_equal(*ends)


def supcon(e, labels):
  """The loss by its definition, row by row."""
  e = e / np.linalg.norm(e, axis=1, keepdims=True)
  out = []
  for j in range(len(e)):
    others = [k for k in range(len(e)) if k != j]
    s = np.array([e[j] @ e[k] for k in others]) / 0.07
    share = log_softmax(s)
    same = [i for i, k in enumerate(others) if labels[k] == labels[j]]
    out.append(-share[same].mean() if same else 0.0)
  return np.array(out)


def test_supervised_contrast_is_its_definition_and_reads_no_row_of_weight_0():
  rng = np.random.default_rng(0)
  e, labels = rng.normal(size=(7, 5)), np.array([0, 0, 1, 1, 1, 2, 0])
  found = jax.jit(contrastive.supervised_contrastive)(jnp.asarray(e), labels)
  np.testing.assert_allclose(found, supcon(e, labels), rtol=1e-4, atol=1e-5)
  assert float(found[5]) == 0  # The only one of its class.
  dirty = jnp.asarray(e).at[3].set(jnp.nan)
  weight = jnp.ones(7).at[3].set(0)
  loss = jax.jit(
    lambda v: contrastive.supervised_contrastive(v, labels, weight=weight)
  )
  rest = np.delete(np.arange(7), 3)
  np.testing.assert_allclose(
    np.asarray(loss(dirty))[rest], supcon(e[rest], labels[rest]), rtol=1e-4,
    atol=1e-5,
  )  # fmt: skip
  assert float(loss(dirty)[3]) == 0
  assert np.isfinite(jax.jit(jax.grad(lambda v: loss(v).sum()))(dirty)).all()


def test_contrast_with_an_equal_orthonormal_teacher_has_a_closed_form():
  m, t = 4, 0.5
  found = contrastive.teacher_contrastive(
    jnp.eye(m), jnp.eye(m), jnp.arange(m), t
  )
  wanted = -np.log(np.exp(1 / t) / (np.exp(1 / t) + m - 1))
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  grad = jax.grad(
    lambda a: contrastive.teacher_contrastive(
      a, jnp.eye(m), jnp.arange(m), t
    ).sum()
  )(jnp.ones((m, m)))
  assert not np.asarray(grad).any()


def test_distillation_by_confidence_is_its_definition():
  rng = np.random.default_rng(1)
  s, t = rng.normal(size=(2, 6, 3))
  labels = np.arange(6) % 3
  sure = np.exp(log_softmax(t / 2))[np.arange(6), labels]
  found = contrastive.confidence_weighted_mse(
    jnp.asarray(s), jnp.asarray(t), labels, 2.0
  )
  np.testing.assert_allclose(
    found, sure * ((s - t) ** 2).mean(axis=1), rtol=1e-5
  )
  same = contrastive.confidence_weighted_mse(
    jnp.asarray(t), jnp.asarray(t), labels
  )
  assert not np.asarray(same).any()


def test_contrastive_losses_refuse_what_does_not_fit():
  e, labels = jnp.ones((4, 3)), jnp.zeros(4, int)
  with pytest.raises(ValueError, match="Expected embeddings"):
    contrastive.supervised_contrastive(e[0], labels)
  with pytest.raises(ValueError, match=r"Expected weight \[4\]"):
    contrastive.supervised_contrastive(e, labels, weight=jnp.ones(3))
  with pytest.raises(ValueError, match="Expected temperature > 0"):
    contrastive.supervised_contrastive(e, labels, 0.0)
  with pytest.raises(ValueError, match="Expected temperature > 0"):
    contrastive.teacher_contrastive(e, e, labels, -1.0)
  with pytest.raises(ValueError, match="and teacher_embeddings "):
    contrastive.teacher_contrastive(e[:2], e, labels)
  refused(
    r"teacher_logits \[B, C\]",
    contrastive.confidence_weighted_mse,
    e,
    e[:2],
    labels,
  )
  with pytest.raises(ValueError, match=r"and labels \[B\], got"):
    contrastive.confidence_weighted_mse(e, e, labels[:2])
  with pytest.raises(ValueError, match=r"Expected labels in 0 .. 2"):
    contrastive.confidence_weighted_mse(e, e, labels + 3)
  with pytest.raises(ValueError, match="Expected temperature > 0"):
    contrastive.confidence_weighted_mse(e, e, labels, 0.0)


@pytest.mark.slow
def test_views_are_crops_turned_by_what_they_say():
  # A ramp from left to right shows which way an image was turned.
  ramp = jnp.tile(jnp.linspace(0.0, 1.0, 8)[None, :, None], (8, 1, 1))
  views, turns = turned_crops(KEY, jnp.tile(ramp[None], (8, 1, 1, 1)))
  assert views.shape == (8, 8, 8, 1)
  assert np.bincount(turns, minlength=4).tolist() == [2] * 4
  for image, turn in zip(np.asarray(views)[..., 0], np.asarray(turns)):
    back = np.rot90(image, -turn)
    assert (np.diff(back.mean(axis=0)) > 0).all()
    assert np.ptp(back.mean(axis=1)) < 1e-5
    assert np.ptp(back.mean(axis=0)) < 0.9  # A part of the ramp, enlarged.
  refused("Expected square images", turned_crops, KEY, jnp.ones((2, 4, 5, 1)))


def with_heads():
  """A linear classifier of images with a projector and a rotation head."""

  def init(key, x):
    size = int(np.prod(x.shape[1:]))
    sizes = {"out": 3, "projection": 5, "rotation": 4}
    keys = jax.random.split(key, 3)
    return {
      name: jax.random.normal(k, (size, width)) / size**0.5
      for k, (name, width) in zip(keys, sizes.items())
    }

  flat = lambda x: x.reshape(x.shape[0], -1)
  apply = lambda params, x: flat(x) @ params["out"]
  heads = lambda variables, x: {
    name: flat(x) @ variables.params[name]
    for name in ("projection", "rotation")
  }
  return from_functions(init, apply, features=heads)


@pytest.mark.slow
def test_heads_are_trained_by_their_own_terms_and_never_by_forget_rows():
  model = with_heads()
  rng = np.random.default_rng(0)
  data = {
    "x": jnp.asarray(rng.normal(size=(12, 4, 4, 1)), jnp.float32),
    "label": jnp.arange(12) % 3,
  }
  none = jnp.zeros(12, bool)
  heads = co.Embedding("projection", "rotation")
  learner = co.clu(model, embedding=heads, **KEPT)
  state = start(learner, model, data)
  learned, _ = event(learner, state, data, data["label"] < 2, none, KEY)
  for name in ("projection", "rotation"):
    assert not np.allclose(
      learned.variables.params[name], state.variables.params[name]
    )
  only = state._replace(ledger=co.Ledger(data["label"] == 2))
  out, info = event(learner, only, data, none, data["label"] == 2, KEY)
  assert bool(info.is_finite)
  for name in ("projection", "rotation"):
    np.testing.assert_array_equal(
      out.variables.params[name], state.variables.params[name]
    )
  assert not np.allclose(
    out.variables.params["out"], state.variables.params["out"]
  )
  # Without images: a second view by augmentation, no rotation.
  noisy = lambda key, x: x + 0.1 * jax.random.normal(key, x.shape)
  learner = co.clu(
    model, embedding=co.Embedding("projection"), augment=noisy, **KEPT
  )
  out, info = event(learner, state, data, data["label"] < 2, none, KEY)
  assert bool(info.is_finite)
  np.testing.assert_array_equal(
    out.variables.params["rotation"], state.variables.params["rotation"]
  )
  # The replayed images meet the teacher's embeddings.
  out, info = event(learner, out, data, data["label"] == 2, none, KEY)
  assert bool(info.is_finite)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"forget_weight": -1}, "Expected forget_weight >= 0"),
    ({"replay_weight": -1}, "Expected replay_weight >= 0"),
    ({"temperature": 0}, "Expected temperature > 0"),
    ({"teacher": co.Teacher(1.5)}, r"Expected teacher_rate in \[0, 1\]"),
    (
      {"teacher": co.Teacher(decay=-0.1)},
      r"Expected teacher_decay in \[0, 1\]",
    ),
    ({"gamma": 2}, r"Expected gamma in \[0, 1\]"),
    ({"embedding": co.Embedding("projection")}, "a model with features"),
    ({"buffer_size": None}, "Expected buffer_size >= 1, got None"),
    ({"buffer_size": 0}, "Expected buffer_size >= 1, got 0"),
    ({"buffer_rule": "newest"}, "Expected buffer_rule to be one of"),
    ({"replay_batch_size": 0}, "Expected replay_batch_size > 0"),
    ({"num_steps": -1}, "Expected num_steps >= 0"),
    ({"batch_size": 0}, "Expected batch_size > 0"),
  ],
)
def test_options_out_of_range_are_refused(options, message):
  refused(message, co.clu, problems.mlp(), **{**KEPT, **options})


def test_a_balanced_buffer_needs_a_slot_for_each_class():
  learner = co.clu(
    problems.mlp(), **{**KEPT, "buffer_size": 3, "buffer_rule": "balanced"}
  )
  refused("Expected buffer_size >= 4, a row for", start, learner)


def test_the_data_of_init_are_not_read():
  learner = co.clu(problems.mlp(), **KEPT)
  blank = {"x": DATA["x"] * jnp.nan, "label": DATA["label"] * 0}
  chex.assert_trees_all_equal(start(learner), start(learner, data=blank))
  assert isinstance(start(learner).memory.incompetent, Variables)
