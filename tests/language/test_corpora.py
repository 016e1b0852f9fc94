"""Task vectors, WHP, what MUSE, RESTOR and ConceptVectors measure, and corpora."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance.answers import answers
from refusals import refused

import jaxunlearn as ju
from experiments.datasets import corpora
from jaxunlearn import language
from jaxunlearn.core import requests
from jaxunlearn.core.types import Request
from jaxunlearn.language import concept_vectors as cv
from jaxunlearn.metrics import text

FIT = ju.Fit(optax.adam(0.01), 2, 8)


@pytest.fixture(scope="module")
def world():
  return answers()


@pytest.fixture(scope="module")
def guarded(world):
  """The model that serves guards, a guard, and the reinforced weights."""
  served = language.whp_model(world.subject)
  method = language.whp(served, FIT, strength=jnp.float32(3.0))
  made, _ = jax.jit(method)(
    world.variables, world.data, world.requests[0], jax.random.key(0)
  )
  return served, made


def test_a_reversed_vector_goes_as_far_to_the_other_side():
  first = {"w": jnp.array([1.0, 2.0]), "b": jnp.array([0.5], jnp.bfloat16)}
  second = {"w": jnp.array([2.0, 0.0]), "b": jnp.array([1.0], jnp.bfloat16)}
  found = ju.methods.reversal(first, second, 2.0)
  np.testing.assert_array_equal(found["w"], [-1.0, 6.0])
  assert found["b"].dtype == jnp.bfloat16 and float(found["b"][0]) == -0.5
  for same in (
    ju.methods.reversal(first, second, 0.0),
    ju.methods.reversal(first, first, 5.0),
  ):
    jax.tree.map(np.testing.assert_array_equal, same, first)
  many = jax.vmap(lambda a: ju.methods.reversal(first, second, a))(
    jnp.array([0.0, 2.0])
  )
  np.testing.assert_array_equal(many["w"][1], found["w"])
  refused("strength >= 0", ju.methods.reversal, first, second, -1.0)
  refused("reinforced", ju.methods.reversal, first, {"w": first["w"]}, 1.0)


def test_corruption_along_one_line_is_undone_exactly():
  """RESTOR: a linear step, and the same step again, reversed."""
  clean = {"w": jnp.array([1.0, -2.0])}
  step = jnp.array([0.5, 0.25])
  corrupted = {"w": clean["w"] + step}
  further = {"w": corrupted["w"] + 2 * step}
  found = ju.methods.reversal(corrupted, further, 0.5)
  np.testing.assert_array_equal(found["w"], clean["w"])


def test_the_guard_takes_away_what_the_reinforced_model_says_more(
  world, guarded
):
  served, made = guarded
  x = world.data["x"]
  jax.tree.map(
    np.testing.assert_array_equal, made.params, world.variables.params
  )
  more = ju.Variables(made.model_state["whp"]["reinforced"])
  bare = jax.jit(world.subject.model.predict)
  v, r = (np.asarray(bare(m, x)) for m in (world.variables, more))
  assert np.abs(v - r).max() > 0.01
  wanted = v - 3.0 * np.maximum(r - v, 0)
  predict = jax.jit(served.model.predict)
  np.testing.assert_allclose(predict(made, x), wanted, atol=2e-5)
  # Without the guard, and with one that does nothing, it is the bare model.
  np.testing.assert_array_equal(predict(world.variables, x), v)
  none = {"whp": {**made.model_state["whp"], "strength": jnp.float32(0)}}
  idle = made._replace(model_state=none)
  np.testing.assert_allclose(predict(idle, x), v, atol=1e-6)


def test_a_guarded_model_generates_what_its_logits_say(world, guarded):
  served, made = guarded
  x = jax.tree.map(lambda leaf: leaf[:3], world.data["x"])
  x = x._replace(prompt=jnp.full(3, 4, jnp.int32))
  said = jax.jit(
    lambda v: language.generate(served, v, x, jax.random.key(1), max_new=3)
  )(made)
  predict = jax.jit(served.model.predict)
  tokens = np.zeros((3, 7), np.int32)  # What is not said yet is padding.
  tokens[:, :4] = x.tokens[:, :4]
  for width in range(4, 7):
    length = np.full(3, width, np.int32)
    now = language.Text(tokens, length, np.ones(3, np.int32))
    best = np.asarray(predict(made, now))[:, width - 1].argmax(-1)
    np.testing.assert_array_equal(said.tokens[:, width - 4], best)
    tokens[:, width] = best
  scores = jax.jit(lambda v: language.token_scores(served, v, x))(made)
  own = jax.nn.log_softmax(predict(made, x))[:, :-1]
  picked = np.take_along_axis(
    np.asarray(own), np.asarray(x.tokens)[:, 1:, None], axis=-1
  )[..., 0]
  np.testing.assert_allclose(
    scores.log_prob, np.where(scores.mask, picked, 0), atol=1e-5
  )


def test_rouge_f1_is_the_packages_on_words():
  pytest.importorskip("rouge_score")
  rng = np.random.default_rng(0)
  a, b = rng.integers(0, 6, (2, 40, 9))
  n, m = rng.integers(1, 10, (2, 40))
  found = text.rouge_l_f1(a, n, b, m)
  said, truth = (
    [" ".join(f"w{t}" for t in row[:k]) for row, k in zip(x, ks)]
    for x, ks in ((a, n), (b, m))
  )
  wanted = text.rouge_l_of_texts(said, truth, score="fmeasure", stems=False)
  np.testing.assert_allclose(found, wanted, atol=1e-6)
  nothing = np.zeros(40, int)
  np.testing.assert_array_equal(text.rouge_l_f1(a, nothing, b, m), 0)
  assert np.isnan(text.rouge_l_f1(a, n, b, nothing)).all()


def test_the_first_checkpoint_that_forgot_enough():
  values = jnp.array([0.9, 0.3, 0.1, 0.3])
  assert [int(text.first_under(values, t)) for t in (0.3, 0.2, 0.95, 0.0)] == [
    1, 2, 0, 3,
  ]  # fmt: skip


def test_requests_grow_and_share_no_row():
  masks = np.array([[1, 0, 0, 0], [0, 1, 1, 0]], bool)
  np.testing.assert_array_equal(
    requests.nested(masks), [[1, 0, 0, 0], [1, 1, 1, 0]]
  )
  for bad, words in (
    (masks | masks[::-1], "got 0 in two"),
    (masks & False, "got none in 0"),
    (masks[0], "bool"),
    (masks.astype(int), "int"),
  ):
    refused(words, requests.nested, bad)


def planted(world, place, token):
  """A value vector that speaks for one token ten times as loud as any."""
  kernel = cv.value_vectors(world.variables)
  table = cv.unembedding(world.variables)
  kernel = kernel.at[place.layer, place.neuron].set(10 * table[token])
  return with_kernel(world.variables, kernel)


def with_kernel(variables, kernel):
  blocks = variables.params["blocks"]
  mlp = {**blocks["mlp"], "down": {**blocks["mlp"]["down"], "kernel": kernel}}
  params = {**variables.params, "blocks": {**blocks, "mlp": mlp}}
  return variables._replace(params=params)


PLACE = cv.Place(1, 5)


def test_a_planted_vector_speaks_for_its_token(world):
  made = planted(world, PLACE, 7)
  top = cv.top_tokens(
    cv.vector_at(made, PLACE), cv.unembedding(world.variables), 32
  )
  table = np.asarray(cv.unembedding(world.variables))
  assert top.tolist() == np.argsort(-(table @ table[7])).tolist()
  refused("k <= V", cv.top_tokens, jnp.zeros(16), jnp.zeros((32, 16)), 33)


def test_scores_of_a_change_by_hand(world):
  before = world.variables
  related = jnp.arange(32) < 16
  score = lambda after: cv.change(before, after, PLACE, related, k=8)
  same = score(before)
  np.testing.assert_allclose(same, [1, 0, 1, 1, 1], atol=1e-6)
  kernel = cv.value_vectors(before)
  own = kernel[PLACE]
  scaled = lambda c: with_kernel(before, kernel.at[PLACE].set(c * own))
  twice = score(scaled(2.0))
  np.testing.assert_allclose(
    twice, [1, np.linalg.norm(own), 1, 1, 1], rtol=1e-5
  )
  turned = score(scaled(-1.0))
  assert float(turned.cosine) == pytest.approx(-1)
  assert float(turned.jaccard) == float(turned.survival) == 0
  assert np.isnan(float(score(scaled(0.0)).cosine))
  # Sets by NumPy, of another model.
  other = with_kernel(before, kernel.at[PLACE].set(kernel[0, 3]))
  table = np.asarray(cv.unembedding(before))
  first, second = (
    set(np.argsort(-(table @ np.asarray(v)))[:8]) for v in (own, kernel[0, 3])
  )
  found, mine = score(other), set(range(16))
  assert float(found.jaccard) == pytest.approx(
    len(first & second) / len(first | second)
  )
  assert float(found.ratio) == pytest.approx(
    len(second & mine) / len(first & mine)
  )
  assert float(found.survival) == pytest.approx(
    len(first & second & mine) / len(first & mine)
  )
  assert np.isnan(
    cv.change(before, before, PLACE, jnp.zeros(32, bool), k=8).ratio
  )


def test_units_in_another_order_change_neither_the_model_nor_the_scores(world):
  before, order = world.variables, np.random.default_rng(0).permutation(24)
  after = with_kernel(before, cv.value_vectors(before) + 0.1)
  related = jnp.arange(32) < 16

  def shuffled(variables):
    blocks = variables.params["blocks"]
    mlp = {
      name: {
        "kernel": each["kernel"][:, order]
        if name == "down"
        else each["kernel"][..., order]
      }
      for name, each in blocks["mlp"].items()
    }
    params = {**variables.params, "blocks": {**blocks, "mlp": mlp}}
    return variables._replace(params=params)

  predict = jax.jit(world.subject.model.predict)
  x = world.data["x"]
  np.testing.assert_allclose(
    predict(shuffled(before), x), predict(before, x), atol=1e-5
  )
  score = lambda a, b, place: cv.change(a, b, place, related, k=8)
  for neuron in (5, 7):
    moved = cv.Place(1, int(np.flatnonzero(order == neuron)[0]))
    np.testing.assert_allclose(
      score(shuffled(before), shuffled(after), moved),
      score(before, after, cv.Place(1, neuron)),
      atol=1e-6,
    )
  both = cv.Place(jnp.array([1, 1]), jnp.array([5, 7]))
  swapped = jax.tree.map(lambda leaf: leaf[::-1], both)
  many = jax.vmap(lambda place: score(before, after, place))
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a[::-1], b),
    many(both),
    many(swapped),
  )


def test_needle_changes_one_vector_alone(world):
  nobody = Request(None, None)
  method = jax.jit(
    lambda std, key: cv.needle(PLACE, std=std)(
      world.variables, None, nobody, key
    )[0]
  )
  made = method(0.1, jax.random.key(0))
  moved = jax.tree.map(
    lambda a, b: int((np.asarray(a) != np.asarray(b)).sum()),
    made.params,
    world.variables.params,
  )
  assert sum(jax.tree.leaves(moved)) == 16
  assert moved["blocks"]["mlp"]["down"]["kernel"] == 16
  same = method(0.0, jax.random.key(0))
  jax.tree.map(
    np.testing.assert_array_equal, same.params, world.variables.params
  )
  squared = [
    float(
      jnp.square(
        cv.vector_at(method(0.1, jax.random.key(s)), PLACE)
        - cv.vector_at(world.variables, PLACE)
      ).sum()
    )
    for s in range(64)
  ]
  # d std^2, within three standard errors of a chi-square with 16 degrees.
  assert abs(np.mean(squared) - 0.16) < 3 * 0.01 * np.sqrt(2 * 16 / 64)
  for bad in (cv.Place(2, 0), cv.Place(0, 24), cv.Place(-1, 0)):
    refused(r"layer|neuron", cv.needle, bad, shape=(2, 24))
  refused("std >= 0", cv.needle, PLACE, std=-1.0)


def test_steps_of_the_needle_move_its_vector_alone(world):
  fit = ju.Fit(optax.adamw(0.3, weight_decay=0.1), 4, 8)
  rows = world.requests[0]
  method = cv.needle(PLACE, std=0.0, steps=(world.subject, fit))
  made, info = jax.jit(method)(
    world.variables, world.data, rows, jax.random.key(0)
  )
  kernel = cv.value_vectors(world.variables)
  put = kernel.at[PLACE].set(cv.vector_at(made, PLACE))
  jax.tree.map(
    np.testing.assert_array_equal,
    made.params,
    with_kernel(world.variables, put).params,
  )
  assert (cv.vector_at(made, PLACE) != kernel[PLACE]).all()
  losses = info["gradient_ascent"]["unlearn"].loss
  assert losses[-1] < losses[0]


def test_candidates_and_what_noise_on_them_does(world):
  lm, x = world.subject, world.data["x"]
  concept, others = (
    jax.tree.map(lambda leaf, part=part: leaf[part], x)
    for part in (slice(0, 6), slice(6, 24))
  )
  related = jnp.zeros(32, bool).at[7].set(True)
  made = planted(world, PLACE, 7)
  places, scores = jax.jit(
    lambda v: cv.candidates(lm, v, concept, others, related, count=3, k=1)
  )(made)
  kernel = cv.value_vectors(made)
  nll = jax.jit(lambda v, rows: cv.mean_nll(lm, v, rows))
  slope = jax.jit(jax.grad(lambda k, rows: nll(with_kernel(made, k), rows)))
  g, h = (
    np.linalg.norm(slope(kernel, rows), axis=-1) for rows in (concept, others)
  )
  table = np.asarray(cv.unembedding(made))
  spoken = (np.asarray(kernel) @ table.T).argmax(-1) == 7
  wanted = np.sort(((g - h) * spoken).ravel())[::-1][:3]
  np.testing.assert_allclose(scores, wanted, atol=1e-6)
  assert spoken[PLACE]
  rows, keys = (concept, others), jax.random.split(jax.random.key(0), 2)
  validate = jax.jit(
    lambda std: cv.validate(lm, made, places, rows, keys, std=std)
  )
  rises = validate(0.5)
  for i in range(3):
    place = cv.Place(places.layer[i], places.neuron[i])
    for rise, own in zip(rises, rows):
      wanted = np.mean([
        nll(cv.noisy(made, place, 0.5, k), own) - nll(made, own)
        for k in keys
      ])  # fmt: skip
      np.testing.assert_allclose(rise[i], wanted, atol=1e-5)
  np.testing.assert_allclose(validate(0.0), 0, atol=1e-6)
  causal = cv.is_causal(jnp.array([0.2, 0.2, 0.01]), jnp.array([0.0, 0.1, 0.0]))
  assert causal.tolist() == [True, False, False]
  with pytest.raises(ValueError, match="related tokens"):
    cv.candidates(lm, made, concept, others, related & False, count=1)


def test_folders_are_documents(tmp_path):
  for name in "abcd":
    (tmp_path / f"{name}.txt").write_text(f"First of {name}.\n\n\nAnd\nmore.\n")
  (tmp_path / "questions.jsonl").write_text(
    '{"document": "b", "question": "Which?", "answer": "First."}\n'
  )
  found = corpora.read(str(tmp_path))
  assert found.texts[:2] == ["First of a.", "And more."]
  assert found.document.tolist() == list("aabbccdd")
  assert found.about.tolist() == ["b"] and found.answers == ["First."]
  named = found.document == "a"
  train, held = corpora.divide(found, named, 0, 1)
  assert len(train) == 6 and len(held) == 2 and {0, 1} <= set(train)
  assert len(set(found.document[held])) == 1
  for line, words in (
    ('{"document": "z", "question": "a", "answer": "b"}', "a document of"),
    ('{"document": "a"}', "texts question, answer, document"),
    ("[]", "a JSON object on line 1 of questions.jsonl"),
  ):
    (tmp_path / "questions.jsonl").write_text(line)
    refused(words, corpora.read, str(tmp_path))
  (tmp_path / "questions.jsonl").unlink()
  (tmp_path / "d.txt").write_text(" \n\n")
  refused("document d to say something", corpora.read, str(tmp_path))
  refused("to be a folder", corpora.read, str(tmp_path / "none"))
  refused("leave documents", corpora.divide, found, found.document < "d", 0, 1)


def test_the_published_layout(tmp_path):
  (tmp_path / "raw").mkdir()
  (tmp_path / "knowmem").mkdir()
  for part in ("forget", "retain1", "holdout"):
    (tmp_path / f"raw/{part}.txt").write_text(f"{part} one\n\n{part} two")
  (tmp_path / "raw/retain2.json").write_text('["x y", "z"]')
  for part in ("forget", "retain"):
    (tmp_path / f"knowmem/{part}_qa.json").write_text(
      f'[{{"question": "Q {part}?", "answer": "A."}}]'
    )
  found = corpora.read(str(tmp_path))
  assert set(found.document) == {"forget", "retain1", "retain2", "holdout"}
  assert found.about.tolist() == ["forget", "retain2"]
  named = found.document == "forget"
  train, held = corpora.divide(found, named, 3, 1)
  assert set(found.document[held]) == {"holdout"} and len(train) == 6
  (tmp_path / "raw/holdout.txt").unlink()
  refused("raw/holdout", corpora.read, str(tmp_path))
