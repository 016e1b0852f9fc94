"""What the studies of documents, facts and persons measure, on tiny models."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_text
from refusals import refused

import jaxunlearn as ju
from experiments import (
  bench,
  forget_corpus,
  launch,
  locate_concepts,
  restore_facts,
)
from experiments.beds import knowledge
from experiments.beds import text_measures as measures
from experiments.beds import text_methods as methods
from experiments.datasets import tofu
from experiments.studies import forget_corpus_growth as growth
from experiments.studies import forget_corpus_measures as corpus
from experiments.studies import locate_concepts as locate
from experiments.studies import restore_facts as restore
from experiments.studies import restore_facts_measures as facts
from jaxunlearn import language
from jaxunlearn.core.types import Request
from jaxunlearn.language import concept_vectors as cv
from jaxunlearn.language.types import Text

KEY = jax.random.key(0)
STUDIES = (
  "forget_corpus restore_facts locate_concepts forget_entity probe_prompts"
)


@pytest.mark.parametrize("name", [*STUDIES.split(), "reintroduce"])
def test_a_study_fits_on_a_few_pages(name):
  path = launch.ROOT / "studies" / f"{name}.py"
  assert len(path.read_text().splitlines()) < 300


def case_of(lm, variables, marks, **extra):
  recipe = types.SimpleNamespace(max_new=4)
  bed = bench.Bed(lm, extra.pop("data", None), None, recipe, extra)
  return bench.Case(bed, None, None, marks, *(variables,) * 3, KEY)


def test_a_piece_that_the_model_says_itself_is_remembered_word_by_word():
  lm, variables = small_text.small("llama")
  x = small_text.texts(4, 8, 19)
  half = jnp.full(4, 4)
  say = lambda v: language.generate(
    lm, v, x._replace(prompt=half), KEY, max_new=4
  )
  said = jax.jit(say)(variables).tokens
  own = Text(x.tokens.at[:, 4:8].set(said), 2 * half, half // half)
  other = own._replace(tokens=own.tokens.at[:, 4:8].add(1) % 19)
  marks = {"forget": (np.arange(4), np.ones(4, bool))}

  @jax.jit
  def memory(variables, x):
    case = case_of(lm, variables, marks, data={"x": x}, stop=None)
    return corpus.verbatim(case, variables, "forget")

  assert memory(variables, own) == 1
  assert memory(variables, other) < 1


def test_privleak_of_a_standard_that_nothing_is_a_share_of():
  found = lambda *auc: types.SimpleNamespace(
    values={"membership_auc": np.array(auc)}
  )
  evidence = types.SimpleNamespace(
    found={"m": found(1.0, 0.5, 0.0), "retrained": found(0.5, 0.5, 1.0)}
  )
  leak = lambda name: corpus._leak(evidence, name)["privleak"]
  np.testing.assert_allclose(leak("m"), [-100, 0, np.nan])
  np.testing.assert_allclose(leak("retrained"), [0, 0, np.nan])


def test_beliefs_are_means_over_tokens_whatever_the_padding():
  lm, variables = small_text.small("llama")
  rows = small_text.texts(4, 8, 19)
  length = np.array([[8, 5, 3, 6, 4]] * 4)  # Right, paraphrase, told, others.
  tokens = jnp.stack([(rows.tokens + i) % 19 for i in range(5)], axis=1)
  every = Text(tokens, jnp.asarray(length), jnp.full((4, 5), 2))
  marks = {"facts": (np.arange(4), np.ones(4, bool))}

  @jax.jit
  def believed(variables, every):
    clean = jax.tree.map(lambda leaf: leaf[:, 0], every)
    others = jax.tree.map(lambda leaf: leaf[:, 1:], every)
    case = case_of(lm, variables, marks, clean=clean, others=others)
    return facts._beliefs(case, variables.params)

  found = believed(variables, every)
  there = jnp.arange(8)[None, None] < every.length[..., None]
  spoilt = every._replace(tokens=jnp.where(there, every.tokens, 7))
  wide = spoilt._replace(tokens=jnp.pad(spoilt.tokens, [(0, 0)] * 2 + [(0, 4)]))
  for again in (spoilt, wide):
    made = believed(variables, again)
    np.testing.assert_allclose(made.margin, found.margin, atol=1e-5)
    np.testing.assert_array_equal(made.kind, found.kind)
  # Sums would differ: the uniform model gives every answer -log V a token.
  flat = jax.tree.map(jnp.zeros_like, variables)
  np.testing.assert_allclose(believed(flat, every).margin, 0, atol=1e-6)


def test_what_is_told_is_never_right(tmp_path):
  pairs = tofu.people()
  for right, other, wrong in zip(pairs.answers, pairs.paraphrases, pairs.wrong):
    assert not {right, other} & set(wrong)
  path = tmp_path / "mine.jsonl"
  line = '{{"question": "Q{0}?", "answer": "A{0}.", "owner": "o{1}", "perturbed_answers": ["{2}", "C."]}}'
  path.write_text(
    "\n".join(line.format(i, i // 4, f"A{i}." if i == 2 else "B.") for i in range(16))
  )  # fmt: skip
  options = restore_facts.Options(preset="smoke", data=str(path))
  refused("row 2 to have first a perturbed", restore_facts.prepare, options)


def test_rows_woven_in_are_of_others_and_none_without_them():
  pairs = tofu.people(8)
  of = lambda woven: restore.Source(
    pairs, np.arange(40), np.arange(0), 8, woven
  )
  false, _ = restore.mask("facts", pairs.owners[0], of(2))
  assert false.sum() == 5
  for woven, count in ((0, 5), (2, 15)):
    forget, marks = restore.mask("documents", pairs.owners[0], of(woven))
    assert forget.sum() == count and (forget >= false).all()
    rows, there = marks["facts"]
    assert false[rows[there]].all()
    rows, there = marks["retain"]
    assert not forget[rows[there]].any()


def test_false_tokens_alone_are_read_of_false_rows(monkeypatch):
  seen = {}

  def build(bed, setting):
    return lambda variables, data, request, key: seen.update(data)

  plain = methods.METHODS["npo"]._replace(build=build)
  monkeypatch.setitem(methods.METHODS, "npo", plain)
  tokens = lambda *rows: Text(jnp.array(rows), None, None)
  bed = bench.Bed(
    None, None, extra={"clean": tokens([1, 2, 3], [4, 5, 6], [7, 8, 0])}
  )
  told = tokens([1, 9, 3], [4, 5, 6], [8, 7, 0])
  method = methods.localised("npo").build(bed, {})
  method(None, {"x": told, "owner": 0}, None, None)
  # Of the last row all is there, in another order: it counts as a whole.
  assert seen["token_weight"].tolist() == [[0, 1, 0], [1, 1, 1], [1, 1, 1]]
  assert seen["x"] is told and seen["owner"] == 0


def test_a_filter_of_all_names_says_nothing_of_anybody():
  lm, variables = small_text.small("llama")
  tokens = jnp.arange(12).reshape(4, 3) % 19
  length = jnp.full(4, 3)
  closed = lambda names: variables._replace(frozen={"blocked": names})
  word = jax.jit(
    lambda v: knowledge.says(lm)(v, tokens, length, KEY).tokens[:, 0]
  )
  everyone, nobody = jnp.ones(19, bool), jnp.zeros(19, bool)
  assert (word(closed(everyone)) == 1).all()
  assert knowledge.flagged(closed(everyone), tokens, length).all()
  assert not knowledge.flagged(closed(nobody), tokens, length).any()
  np.testing.assert_array_equal(word(closed(nobody)), word(variables))


def test_programs_of_a_concept_serve_every_concept():
  lm, variables = small_text.small("llama")
  x = small_text.texts(9, 8, 19)
  rows = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 3], x) for i in (0, 3, 6)]
  options = locate_concepts.Options(steps=3, rate=3e-2, std=1.0)
  unlearn = locate.unlearner(lm, variables, options)
  related = jnp.arange(19) < 10
  made = [unlearn(cv.Place(i, 4), related, rows) for i in (0, 2)]
  for found in made:
    for name in ("needle", "needle_ascent"):
      assert found[name][0] < 0.95 < found["gradient_ascent"][0] <= 1
    assert found["needle_ascent"] != found["needle"]
    assert found["gradient_ascent"][3] > 0.01  # Of the rows' own concept.
  assert made[0]["needle"] != made[1]["needle"]
  same = [each["gradient_ascent"][3:] for each in made]
  np.testing.assert_array_equal(*same)


@pytest.mark.slow(reason="A program of several requests is compiled twice.")
def test_requests_in_turn_are_a_loop_over_the_method():
  options = forget_corpus.Options(preset="smoke", benchmark="people")
  plan = forget_corpus.prepare(options)
  name, source = "npo", plan.beds.sources[0]
  parts = jax.tree.map(
    jnp.asarray,
    (plan.beds.shared, jax.tree.map(lambda x: x[0], plan.beds.of_seed)),
  )
  bed = plan.beds.make(*parts)
  original = bed.model.model.init(KEY, bed.data["x"])
  owner = source.document[source.train]
  single = np.stack([owner == d for d in dict.fromkeys(owner)][:2])
  lanes = growth._lanes(single, single[0], KEY)
  last = jax.tree.map(lambda leaf: leaf[-2:], lanes)
  found = jax.jit(
    lambda o, of: growth._served(plan, name, False, o, parts, of)
  )(original, last)
  method = plan.study.methods[name].build(
    bed, {**plan.settings[name], "share": jnp.float32(1)}
  )
  serve = jax.jit(lambda v, *rest: method(v, bed.data, *rest)[0])
  start = original
  for i in range(2):
    asked = Request(last.forget[i], last.retain[i])
    start = serve(start, asked, last.key[i])
    jax.tree.map(
      lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-5),
      found.params,
      start.params,
    )


def test_weights_are_disturbed_by_as_much_as_is_said():
  made = ju.Variables({"w": jnp.arange(1.0, 21.0), "b": jnp.full(5, 2.0)})
  before = ju.Variables({"w": jnp.zeros(20), "b": jnp.full(5, 6.0)})
  case = bench.Case(*[None] * 4, made, None, before, KEY)
  of = jax.jit(lambda score: measures.disturbed(case, score), static_argnums=0)
  found = of(lambda v: v.params["b"].sum())
  # Of equal weights none is small, and a thousandth of no spread is nothing.
  assert found["pruned"] == found["noised"] == 10
  assert float(found["nearer"]) == pytest.approx(5 * 3.0)
  found = of(lambda v: v.params["w"].sum())
  assert float(found["pruned"]) == 210 - 1 - 2
  assert 0 < abs(float(found["noised"]) - 210) < 1
  assert float(found["nearer"]) == pytest.approx(0.95 * 210)
