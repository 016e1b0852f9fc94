"""Small representations with the objectives of five papers, all of 64 numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxunlearn as ju
from jaxunlearn import losses, models
from jaxunlearn.core.tasks import Task
from jaxunlearn.core.types import Losses
from jaxunlearn.diffusion import schedules
from jaxunlearn.identity import (
  cion,
  disenbooth,
  dlif,
  infinite_id,
  retain_mean,
  wsc_swap,
)
from jaxunlearn.identity.vectors import unit

WIDTH, PROTOTYPES, SIZE = 16, 24, 64
_LEVELS = schedules.linear(20, 0.01, 0.3)
_LATE = 14  # The time at which a face is drawn from its identity.


class Representation(NamedTuple):
  """What is trained, and how it is looked at.

  Attributes:
    task: with rows x [B, 64], label, context, live.
    view: `(variables, rows) -> [B, D]`, what is audited.
    gallery: the same of the images that an audit knows; real ones of a generator.
    logits: its own read-out of identities, or None.
    respond: what an anchor is put on.
    anchor: what the original says of the class.
    anybody: what it says of all people at once.
  """

  task: Task
  view: Callable[..., jax.Array]
  gallery: Callable[..., jax.Array]
  logits: Callable[..., jax.Array] | None
  respond: Callable[..., jax.Array]
  anchor: Callable[..., jax.Array]
  anybody: Callable[..., jax.Array]


def _net(outputs: int, inputs: int = SIZE) -> tuple[Any, Any]:
  """`key -> params` and `(params, x) -> [B, outputs]` of a small network."""
  module = models.MLP(outputs, hidden=(32,))
  x = jnp.zeros((1, inputs))
  return (
    lambda key: module.init(key, x)["params"],
    lambda params, x: module.apply({"params": params}, x),
  )


def _fresh(key: jax.Array, **parts: Any) -> dict[str, Any]:
  """Params by name: of a network, or normal numbers of a shape."""

  def one(name: str, part: Any) -> Any:
    own = ju.derive(key, name)
    if callable(part):
      return part(own)
    return jax.random.normal(own, part) / part[0] ** 0.5

  return {name: one(name, part) for name, part in parts.items()}


def _encoder(task, view, logits) -> Representation:
  respond = lambda variables, step, key: view(variables, step.rows)
  mean = retain_mean(respond)
  return Representation(task, view, view, logits, respond, mean, mean)


def cion_model(known: int) -> Representation:
  """Prototypes are taught by a running average of the network."""
  init_net, net = _net(WIDTH)

  def out(params, x):
    return dlif.cosine_scores(net(params["net"], x), params["head"])

  def init(key, data):
    params = _fresh(key, net=init_net, head=(WIDTH, PROTOTYPES))
    state = {"teacher": params, "centre": jnp.zeros(PROTOTYPES)}
    return ju.Variables(params, state)

  def loss(variables, step, key, *, train=False):
    x, state = step.rows["x"], variables.model_state
    noise = jax.random.uniform(key, (3, *x.shape), minval=-0.5, maxval=0.5)
    views = x[None] + noise
    teacher = jax.vmap(lambda v: out(state["teacher"], v))(views[:2])
    each = cion.identity_distillation(
      jax.vmap(lambda v: out(variables.params, v))(views),
      teacher,
      step.rows["label"],
      state["centre"],
      weight=step.weight,
    )
    if not train:
      return Losses(each)
    average = jax.tree.map(
      lambda old, new: 0.97 * old + 0.03 * jax.lax.stop_gradient(new),
      *(state["teacher"], variables.params),
    )
    centre = cion.moved_centre(state["centre"], teacher, 0.9, step.weight)
    return Losses(each, None, {"teacher": average, "centre": centre})

  return _encoder(
    Task(init, loss),
    lambda v, rows: unit(net(v.params["net"], rows["x"])),
    lambda v, rows: out(v.params, rows["x"]) / cion.STUDENT,
  )


def dlif_model(known: int) -> Representation:
  """Two branches; the audited one is of identities."""
  init_net, net = _net(WIDTH)

  def branch(params, name, x):
    return unit(net(params[name], x))

  def init(key, data):
    heads = {"live": (WIDTH, 2), "who": (WIDTH, known)}
    return ju.Variables(_fresh(key, u=init_net, v=init_net, **heads))

  def loss(variables, step, key, *, train=False):
    params, rows = variables.params, step.rows
    maps = rows["x"].reshape(-1, 8, 8)

    def crossed(of: jax.Array, name: str) -> jax.Array:
      own = ju.derive(key, name)
      partner = infinite_id.same_identity(of, own, step.weight)
      return dlif.style_cross(maps, partner).reshape(rows["x"].shape)

    b = dlif.Branches(
      branch(params, "u", rows["x"]),
      branch(params, "v", rows["x"]),
      branch(params, "u", crossed(rows["live"], "live")),
      branch(params, "v", crossed(rows["label"], "who")),
      *(params["live"], params["who"]),
    )
    both = dlif.dlif_losses(b, rows["live"], rows["label"], step.weight)
    return Losses(sum(both))

  return _encoder(
    Task(init, loss),
    lambda v, rows: branch(v.params, "v", rows["x"]),
    lambda v, rows: (
      dlif.SCALE
      * dlif.cosine_scores(branch(v.params, "v", rows["x"]), v.params["who"])
    ),
  )


def wsc_model(known: int) -> Representation:
  """A swapper; the audited code is the recogniser's."""
  (init_net, net), (init_critic, critic) = _net(WIDTH), _net(known, WIDTH)
  init_made, made = _net(SIZE, 2 * WIDTH)
  init_reader, reader = _net(5)
  still = jax.lax.stop_gradient

  def init(key, data):
    nets = {"face": init_net, "rest": init_net, "critic": init_critic}
    nets |= {"make": init_made, "reader": init_reader}
    return ju.Variables(_fresh(key, **nets, head=(WIDTH, known)))

  def loss(variables, step, key, *, train=False):
    p, rows = variables.params, step.rows
    x, label = rows["x"], rows["label"]
    # Half of the sources are the target itself, the others anybody who counts.
    drawn = jax.random.categorical(
      key, jnp.log(jnp.broadcast_to(step.weight[None], (len(x),) * 2))
    )
    same = jnp.arange(len(x)) % 2 == 0
    source = jnp.where(same | (step.weight == 0), jnp.arange(len(x)), drawn)
    face, rest = unit(net(p["face"], x)), net(p["rest"], x)
    image = made(p["make"], jnp.concatenate([face[source], rest], axis=1))
    frozen = still(p)
    swapped = wsc_swap.swap_loss(
      image,
      x,
      (unit(net(frozen["face"], image)), face[source]),
      (reader(frozen["reader"], image), reader(frozen["reader"], x)),
      critic(frozen["critic"], rest),
      same,
    )
    seen = jax.nn.one_hot(rows["context"], 4)
    seen = jnp.concatenate([seen, rows["live"][:, None]], axis=1)
    named = losses.cross_entropy(
      10 * dlif.cosine_scores(face, p["head"]), label
    )
    judged = losses.cross_entropy(critic(p["critic"], still(rest)), label)
    read = losses.squared_error(reader(p["reader"], x), seen)
    return Losses(swapped + named + judged + read)

  view = lambda v, rows: unit(net(v.params["face"], rows["x"]))
  return _encoder(
    Task(init, loss),
    view,
    lambda v, rows: 10 * dlif.cosine_scores(view(v, rows), v.params["head"]),
  )


def _denoiser(init, told, generic, everybody, loss_of) -> Representation:
  """A network that draws faces from noise and what it is told of an identity."""
  _, net = _net(SIZE, SIZE + 1 + WIDTH)

  def noised(x, key, time=None):
    count = len(x)
    drawn = jax.random.randint(
      ju.derive(key, "time"), (count,), 0, len(_LEVELS)
    )
    time = drawn if time is None else jnp.full(count, time)
    noise = jax.random.normal(ju.derive(key, "noise"), x.shape)
    return schedules.add_noise(_LEVELS, x, noise, time), noise, time

  def predict(variables):
    def of(noisy, time, condition):
      when = time[:, None] / len(_LEVELS)
      parts = [noisy, when, condition.mean(axis=1)]
      # Most of it is noise; the network is narrower than an image.
      return noisy + net(
        variables.params["net"], jnp.concatenate(parts, axis=1)
      )

    return of

  def loss(variables, step, key, *, train=False):
    rows = step.rows
    noisy, noise, time = noised(rows["x"], key)
    of = predict(variables)
    each = loss_of(variables, step, key, of, noisy, noise, time)
    plain = of(noisy, time, generic(variables, rows))
    return Losses(each + losses.squared_error(plain, noise))

  def said(tell):
    def respond(variables, step, key):
      noisy, _, time = noised(step.rows["x"], key)
      return predict(variables)(noisy, time, tell(variables, step))

    return respond

  def drawn(variables, rows):
    noisy, _, time = noised(rows["x"], jax.random.key(5), _LATE)
    noise = predict(variables)(noisy, time, told(variables, rows))
    return schedules.predict_clean(_LEVELS, noisy, noise, time, 3.0)

  return Representation(
    Task(init, loss),
    drawn,
    lambda variables, rows: rows["x"],
    None,
    said(lambda v, step: told(v, step.rows)),
    said(lambda v, step: generic(v, step.rows)),
    said(everybody),
  )


def _image_code(x: jax.Array) -> jax.Array:
  """The frozen encoder of images: a fixed projection [B, 16]."""
  return x @ jax.random.normal(jax.random.key(3), (SIZE, WIDTH)) / SIZE**0.5


def disenbooth_model(known: int) -> Representation:
  """A token per identity, as what it adds to the token of the class."""
  init_net, _ = _net(SIZE, SIZE + 1 + WIDTH)

  def init(key, data):
    params = _fresh(key, net=init_net, noun=(1, WIDTH))
    adapter = disenbooth.init_adapter(ju.derive(key, "adapter"), WIDTH)
    tokens = jnp.zeros((known, 1, WIDTH))
    return ju.Variables({**params, "adapter": adapter, "tokens": tokens})

  def generic(variables, rows):
    noun = variables.params["noun"]
    return jnp.broadcast_to(noun, (len(rows["x"]), *noun.shape))

  def told(variables, rows):
    # An audit asks for people too that have no token: they are the class.
    own = variables.params["tokens"][jnp.minimum(rows["label"], known - 1)]
    has = (rows["label"] < known)[:, None, None]
    return generic(variables, rows) + jnp.where(has, own, 0.0)

  def everybody(variables, step):
    mean = variables.params["tokens"].mean(axis=0)[None]
    return generic(variables, step.rows) + mean

  def loss(variables, step, key, of, noisy, noise, time):
    own = disenbooth.identity_adapter(
      variables.params["adapter"], _image_code(step.rows["x"])
    )
    return disenbooth.disenbooth_loss(
      *(of, noisy, noise, time, told(variables, step.rows), own),
      weak_weight=0.3,
      contrast=jnp.square,
    )

  return _denoiser(init, told, generic, everybody, loss)


def infinite_id_model(known: int) -> Representation:
  """A mapper from another photo of the person to two tokens."""
  (init_net, _), (init_map, map_image) = (
    _net(SIZE, SIZE + 1 + WIDTH),
    _net(2 * WIDTH, WIDTH),
  )

  def init(key, data):
    return ju.Variables(_fresh(key, net=init_net, mapper=init_map))

  def told(variables, rows):
    tokens = map_image(variables.params["mapper"], _image_code(rows["x"]))
    return tokens.reshape(-1, 2, WIDTH)

  def generic(variables, rows):
    return jnp.zeros((len(rows["x"]), 2, WIDTH))

  def everybody(variables, step):
    tokens = told(variables, step.rows)
    return jnp.broadcast_to(tokens.mean(axis=0)[None], tokens.shape)

  def loss(variables, step, key, of, noisy, noise, time):
    own = ju.derive(key, "photo")
    other = infinite_id.same_identity(step.rows["label"], own, step.weight)
    tokens = told(variables, step.rows)[other]
    return infinite_id.identity_only_denoising(of, noisy, noise, time, tokens)

  return _denoiser(init, told, generic, everybody, loss)


MODELS: Mapping[str, Callable[[int], Representation]] = {
  "cion": cion_model,
  "dlif": dlif_model,
  "wsc-swap": wsc_model,
  "disenbooth": disenbooth_model,
  "infinite-id": infinite_id_model,
}
