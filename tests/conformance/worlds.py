"""What the battery calls transforms on: a small model per room.

Rooms are imported where they are used, so that one can be worked on alone.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import tiny_attention

import jaxunlearn as ju

ADAM = optax.adam(0.01)


class World(NamedTuple):
  """A model, its rows and two requests that differ.

  Attributes:
    subject: what a factory is given: a model, a graph task, ...
    variables: the trained model's.
    data: pytree, leaves [N, ...]; None where a concept says it all.
    requests: bare masks, bool [2, N], or a `Request` with leaves [2, ...].
    misfits: of a world of concepts, functions from one to another that must be
      refused, and words of the error.
  """

  subject: Any
  variables: Any
  data: Any
  requests: Any
  misfits: Any = ()


@functools.cache
def classes() -> World:
  """Four classes; requests are classes 1 and 3."""
  model, data, variables = problems.trained()
  requests = jnp.stack([data["label"] == 1, data["label"] == 3])
  return World(model, variables, data, requests)


@functools.cache
def targets() -> World:
  """The same rows with real numbers to be fitted."""
  world = classes()
  label = jax.nn.one_hot(world.data["label"], 4)
  model = world.subject._replace(loss=ju.losses.on_targets("l2"))
  return world._replace(subject=model, data={**world.data, "label": label})


def filled(init, seed=0):
  """Numbers of a usual size in the place of `init`'s; nothing is compiled."""
  rng = np.random.default_rng(seed)

  def fill(leaf):
    fan_in = leaf.shape[-2] if leaf.ndim > 1 else 4
    noise = rng.standard_normal(leaf.shape) / np.sqrt(fan_in)
    return jnp.asarray(noise, leaf.dtype)

  return jax.tree.map(fill, jax.eval_shape(init, jax.random.key(0)))


def _community_graph(on_edges: bool) -> World:
  from jaxunlearn import graph
  from jaxunlearn.graph.layers import GCN, Encoder

  rng, size = np.random.default_rng(1), 20
  side = np.arange(size) % 2
  pairs = np.argwhere(np.triu(np.ones((size, size)), 1))
  same = side[pairs[:, 0]] == side[pairs[:, 1]]
  edges = pairs[rng.random(len(pairs)) < np.where(same, 0.35, 0.03)]
  x = rng.normal(size=(size, 5)) + side[:, None]
  made = graph.from_edges(x.astype(np.float32), edges, pad_edges_to=48)
  if on_edges:
    task = graph.link_prediction(Encoder(GCN, (6, 4)), made)
    data = graph.link_data(made)
  else:
    task = graph.node_classification(Encoder(GCN, (6, 4), 2), made)
    data = graph.node_data(side, np.arange(16))
  params = filled(lambda key: task.model.init(key, None).params)
  state = {"edge_weight": graph.edge_weight(made)}
  rows = jnp.arange(len(data["label"]))
  first, second = jnp.array([0, 5]), jnp.array([1, 2, 9])
  requests = jnp.stack([jnp.isin(rows, first), jnp.isin(rows, second)])
  return World(task, ju.Variables(params, state), data, requests)


@functools.cache
def edges() -> World:
  """A graph of two communities; requests are edges."""
  return _community_graph(on_edges=True)


@functools.cache
def nodes() -> World:
  """The same graph; requests are nodes."""
  return _community_graph(on_edges=False)


@functools.cache
def interactions() -> World:
  """24 users and 20 items; requests are users."""
  from jaxunlearn import recsys

  made = recsys.synthetic(jax.random.key(0), num_users=24, num_items=20)[0]
  model = recsys.lightgcn(24, 20, dim=4, features=made.features)
  variables = filled(model.init)
  users = ([1, 4, 9], [2, 7])
  requests = jnp.stack([recsys.requests.users(made.train, u) for u in users])
  return World(model, variables, made.train, requests)


SHARDS = 3
SHARD_STEPS = {
  "fit": ju.Fit(optax.adam(0.02), 5, 32),
  "aggregator": ju.Fit(optax.adagrad(0.05), 4),
}


def shard() -> jax.Array:
  """By user, so that a user's request touches one shard."""
  return interactions().data["x"][:, 0] % SHARDS


@functools.cache
def shards() -> World:
  """A model per shard of users and their aggregation."""
  from jaxunlearn import recsys

  world = interactions()
  rows = jnp.ones(len(world.data["x"]), bool)
  train = functools.partial(
    recsys.train_shards, world.subject, shard(), SHARDS, world.data, rows
  )
  variables = filled(lambda key: train(key, **SHARD_STEPS)[0])
  requests = jnp.stack([recsys.requests.users(world.data, [u]) for u in (4, 5)])
  return world._replace(variables=variables, requests=requests)


def _concepts(**more) -> Any:
  """Two concepts, each the other's anchor; leaves [2, ...]."""
  from jaxunlearn.diffusion import Concept

  first, second = tiny_attention.CONCEPT, tiny_attention.OTHER
  retain = jnp.stack([tiny_attention.RETAIN] * 2)
  return Concept(
    jnp.stack([first, second]), jnp.stack([second, first]), retain, **more
  )


@functools.cache
def prompts() -> World:
  """A denoiser with prompts; requests are concepts, and there are no rows."""
  variables = ju.Variables(tiny_attention.params(jax.random.key(2)))
  requests = ju.Request(concept=_concepts())
  misfits = (
    (
      lambda c: c._replace(prompts=c.prompts[:, :-1]),
      r"prompts int \[B, 5\], got ",
    ),
    (
      lambda c: c._replace(prompts=c.prompts * 1.0),
      r"prompts int \[B, 5\], got float32",
    ),
  )
  return World(tiny_attention.model(), variables, None, requests, misfits)


@functools.cache
def images() -> World:
  """The same with rows; requests are those of one prompt and of another."""
  said = (
    tiny_attention.CONCEPT,
    tiny_attention.OTHER,
    tiny_attention.RETAIN[:2],
  )
  tokens = jnp.concatenate(said)
  shape = (len(tokens), *tiny_attention.SHAPE)
  x = jax.random.uniform(jax.random.key(3), shape, minval=-1.0, maxval=1.0)
  row = jnp.arange(len(tokens)) // 2
  forget = jnp.stack([row == 0, row == 1])
  marks = jnp.stack([tiny_attention.CONCEPT == 2, tiny_attention.OTHER == 4])
  requests = ju.Request(forget, ~forget, _concepts(marks=marks))
  return prompts()._replace(data={"x": x, "tokens": tokens}, requests=requests)


@functools.cache
def kernels() -> World:
  """`prompts` with the layers of attention as dense layers name them."""
  world = prompts()
  params = world.variables.params
  layers = params["denoiser"]["attn2"]
  dense = {name: {"kernel": kernel} for name, kernel in layers.items()}
  denoiser = {**params["denoiser"], "attn2": dense}
  params = {**params, "denoiser": denoiser}
  return world._replace(variables=world.variables._replace(params=params))


@functools.cache
def texts() -> World:
  """Rows of three owners; requests are an owner's."""
  from jaxunlearn import language

  sizes = {"width": 16, "num_layers": 2, "num_heads": 2, "mlp_width": 24}
  config = language.DecoderConfig(32, max_length=12, **sizes)
  lm = language.language_model(config)
  rng = np.random.default_rng(4)
  num, length = 36, rng.integers(6, 13, 36)
  made = (rng.integers(0, 32, (num, 12)), length, length // 2)
  x = language.Text(*(jnp.asarray(a, jnp.int32) for a in made))
  owner = jnp.arange(num, dtype=jnp.int32) // 12
  variables = filled(lambda key: lm.model.init(key, x))
  requests = jnp.stack([owner == 0, owner == 2])
  return World(lm, variables, {"x": x, "owner": owner}, requests)


@functools.cache
def samples() -> World:
  """A small generator's own samples; requests are those that are large."""
  from jaxunlearn import gan

  shape, widths = (4,), (6, 6)
  model = gan.vector_gan(shape, widths, (8,), latent_dim=3, mapping=(5,))
  variables = filled(model.init)
  data = gan.pool(model, variables, jax.random.key(6), 32)
  large = jnp.argsort(data["x"][:, :2], axis=0).argsort(axis=0) > 21
  return World(model, variables, data, large.T)


@functools.cache
def named_samples() -> World:
  """The same; requests are embeddings of prompts, and there are no rows."""
  world = samples()
  requests = ju.Request(concept=jnp.eye(4)[:2])
  misfits = (
    (lambda c: c[:-1], r"prompt float \[\d+\], got float32 \(\d+,\)"),
    (lambda c: c.astype(int), r"prompt float \[\d+\], got int"),
  )
  return world._replace(data=None, requests=requests, misfits=misfits)


@functools.cache
def pictures() -> World:
  """Questions about ten images, and some about none; requests are an owner's."""
  from jaxunlearn import vision_language
  from jaxunlearn.adapters.flax import from_linen
  from jaxunlearn.language import DecoderConfig, Text, language_model

  sizes = {"width": 16, "num_layers": 2, "num_heads": 2, "mlp_width": 24}
  decoder = language_model(DecoderConfig(32, max_length=12, **sizes))
  tower = from_linen(ju.models.PatchTower(2, (6, 8)), features=False)
  vlm = vision_language.prefix_model(decoder, tower, num_tokens=4)
  rng = np.random.default_rng(5)
  images = jnp.asarray(rng.normal(size=(10, 8, 8, 1)), jnp.float32)
  num = 36
  tokens, length = rng.integers(0, 32, (num, 8)), rng.integers(4, 9, num)
  made = (tokens, length, length // 2)
  x = Text(*(jnp.asarray(a, jnp.int32) for a in made))
  image = np.where(np.arange(num) % 5 == 4, -1, np.arange(num) % 10)
  x = vision_language.with_images(x, image, 10, vlm)
  owner = jnp.arange(num, dtype=jnp.int32) // 12
  variables = filled(lambda key: vlm.init(key, images))
  ways = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf], axis=1), x)
  data = {"x": x, "owner": owner, "decoupled": x, "paraphrases": ways}
  requests = jnp.stack([owner == 0, owner == 2])
  return World(vlm.over(images), variables, data, requests)


@functools.cache
def concepts() -> World:
  """The same model; requests are concepts with an image, and read no rows."""
  from jaxunlearn.vision_language import Targets

  world = pictures()

  def targets(first):
    rows = jax.tree.map(lambda leaf: leaf[first : first + 8], world.data["x"])
    agrees = jnp.arange(12)[None] % 3 != jnp.arange(8)[:, None] % 3
    return Targets(rows, agrees, jnp.ones(32).at[first : first + 3].set(0))

  both = jax.tree.map(lambda *leaves: jnp.stack(leaves), targets(0), targets(9))
  request = ju.Request(concept=both)
  misfits = ((lambda c: c._asdict(), "Targets in a request of a concept"),)
  return World(world.subject, world.variables, None, request, misfits)
