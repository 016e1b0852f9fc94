"""Requests of the worst and the easiest rows, by the model on the seed's rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxunlearn as ju
from experiments import forget, requests
from experiments.beds import classifiers
from experiments.data import load

FAST = {"preset": "smoke", "methods": "finetune", "train_steps": 60}


def plan(request, **more):
  return forget.prepare(forget.Options(request=request, **FAST, **more))


def test_worst_and_easiest_are_masks_as_any_other():
  found = plan("worst:0.1;easiest:0.1;random:0.1").requests
  worst, easiest, drawn = found.forget
  rows = worst.shape[-1]
  for mask in (worst, easiest, drawn):
    assert mask.shape == (2, rows)
    assert (mask.sum(axis=1) == round(0.1 * rows)).all()
  assert (worst != easiest).any() and not (worst & easiest).any()
  again = plan("worst:0.1").requests.forget[0]
  np.testing.assert_array_equal(again, worst)


def test_units_are_groups_of_a_column(tmp_path, blobs):
  np.savez(tmp_path / "blobs.npz", **blobs)
  found = plan("worst:country=0.3", data=f"npz:{tmp_path / 'blobs.npz'}")
  for mask, split in zip(found.requests.forget[0], found.beds.sources):
    country = split.columns["country"]
    chosen = set(country[mask].tolist())
    assert len(chosen) == 1
    np.testing.assert_array_equal(mask, np.isin(country, list(chosen)))


@pytest.mark.parametrize(
  ("text", "line"),
  [
    ("worst:2", r"share in \(0, 1\), got '2'"),
    ("easiest:all", r"share in \(0, 1\), got 'all'"),
    ("worst:town=0.1", "a column among label, got 'town=0.1'"),
  ],
)
def test_bad_requests(text, line):
  with pytest.raises(ValueError, match=line) as found:
    plan(text)
  assert "\n" not in str(found.value)


def test_without_a_model_there_is_no_worst():
  with pytest.raises(ValueError, match="a study that has a model"):
    requests.parse("worst:0.1", load("digits", preset="smoke"))


@pytest.mark.slow
def test_what_is_worst_is_known_without_having_been_seen():
  """The retrained model errs on worst rows least, on easiest ones most."""
  found = forget.prepare(
    forget.Options(
      request="worst:0.1;random:0.1;easiest:0.1", methods="finetune", seeds=3
    )
  )
  recipe, masks = classifiers.recipe_of(found.options), found.requests.forget
  for seed, split in enumerate(found.beds.sources):
    key = jax.random.key(1000 + seed)
    made, _ = jax.jit(
      lambda masks, rows=split.train, key=key: ju.train_many(
        found.model, rows, ~masks, jnp.stack([key] * 3), recipe.fit
      )
    )(jnp.asarray(masks[:, seed]))
    outputs = jax.vmap(lambda v, x=split.train["x"]: found.model.predict(v, x))(
      made
    )
    wrong = np.asarray(outputs.argmax(-1)) != split.train["label"]
    worst, drawn, easiest = (wrong[i][masks[i, seed]].mean() for i in range(3))
    assert worst <= drawn <= easiest
    assert worst < 0.005 and easiest > 0.2
