"""The presets "paper" build their networks and take steps, on a few rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxunlearn as ju
from experiments import data
from experiments.beds import classifiers, diffusion, gans
from experiments.studies import compare, forget, forget_corrupted, forget_gan

ROWS, STEPS = 80, 2


@pytest.fixture(autouse=True)
def few_photos(monkeypatch):
  rng = np.random.default_rng(0)
  rows = {
    "x": rng.normal(size=(ROWS, 32, 32, 3)).astype(np.float32),
    "label": (np.arange(ROWS) % 10).astype(np.int32),
  }
  found = data.Dataset(rows, rows, 10, data.CIFAR10_CLASSES, {})
  monkeypatch.setattr(data, "cifar10", lambda *args, **kwargs: found)
  monkeypatch.setattr(data, "load", lambda *args, **kwargs: found)
  return rows


def moved(before, after):
  """Whether weights moved and are finite."""
  leaves = jax.tree.leaves(after)
  assert all(np.isfinite(leaf).all() for leaf in leaves)
  return any((a != b).any() for a, b in zip(jax.tree.leaves(before), leaves))


@pytest.mark.slow
@pytest.mark.parametrize("study", [forget, compare, forget_corrupted])
def test_classifiers_train_by_the_recipe_of_their_paper(study, few_photos):
  options = study.Options(
    preset="paper",
    data="cifar10",
    model="resnet",
    train_steps=STEPS,
    batch_size=4,
  )
  classifiers.set_up.cache_clear()
  _, model, _ = classifiers.setup_of(options)
  recipe = classifiers.recipe_of(options)
  assert recipe.paper is not None
  key, every = jax.random.key(0), jnp.ones(ROWS, bool)
  rows = jax.tree.map(jnp.asarray, few_photos)
  after, _ = ju.train(model, rows, every, key, recipe.fit)
  assert moved(model.init(key, rows["x"][:4]).params, after.params)
  classifiers.set_up.cache_clear()


@pytest.mark.slow
def test_a_gan_of_photographs_trains_and_forgets(monkeypatch):
  """A step of every phase of Adapt-then-Unlearn, with its networks."""
  at = ("cifar10", "paper")
  quick = gans.RECIPES[at]._replace(classifier=STEPS)
  monkeypatch.setitem(gans.RECIPES, at, quick)
  beds = gans.load("cifar10", "paper", None, (0,), "report")
  own = jax.tree.map(lambda leaf: leaf[0], beds.of_seed)
  bed = beds.make(beds.shared, own)
  short = bed.recipe.fit._replace(num_steps=STEPS, batch_size=4)
  recipe = bed.recipe._replace(fit=short, stage=1, pool=200)
  bed = bed._replace(recipe=recipe, marks=jnp.int32(3))
  key = jax.random.key(0)
  weights = jnp.ones(len(bed.data["x"]), bool)
  first, _ = forget_gan.train(bed, weights, key)
  setting = {**forget_gan.SETTINGS["adapt_exponential"], "times": 1}
  method = forget_gan.METHODS["adapt_exponential"].build(bed, setting)
  after, _ = method(first, None, None, key)
  assert moved(first.params, after.params)


@pytest.mark.slow
def test_a_diffusion_model_of_photographs_trains():
  images = diffusion.load("paper", None, STEPS)
  size = diffusion.SIZES["paper"]
  fit = size.recipe.fit._replace(num_steps=STEPS, batch_size=4)
  rows = {k: jnp.asarray(images.train[k]) for k in ("x", "tokens")}
  task, key = diffusion.denoising(images.model), jax.random.key(0)
  after, info = ju.train(task, rows, jnp.ones(ROWS, bool), key, fit)
  assert moved(images.model.init(key), after.params)
  assert np.isfinite(info.loss).all()
