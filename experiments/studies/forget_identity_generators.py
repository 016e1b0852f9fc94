"""Faces drawn from noise and from what is told of an identity."""

from __future__ import annotations

import jax
import jax.numpy as jnp

import jaxunlearn as ju
from jaxunlearn import losses
from jaxunlearn.core.tasks import Task
from jaxunlearn.core.types import Losses
from jaxunlearn.diffusion import schedules
from jaxunlearn.identity import disenbooth, infinite_id

from .forget_identity_parts import SIZE, WIDTH, Representation, fresh, net_of

_LEVELS = schedules.linear(20, 0.01, 0.3)
_LATE = 14  # The time at which a face is drawn from its identity.


def _denoiser(init, told, generic, everybody, loss_of) -> Representation:
  """A network that draws faces from noise and what it is told of an identity."""
  _, net = net_of(SIZE, SIZE + 1 + WIDTH)

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
  init_net, _ = net_of(SIZE, SIZE + 1 + WIDTH)

  def init(key, data):
    params = fresh(key, net=init_net, noun=(1, WIDTH))
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
    net_of(SIZE, SIZE + 1 + WIDTH),
    net_of(2 * WIDTH, WIDTH),
  )

  def init(key, data):
    return ju.Variables(fresh(key, net=init_net, mapper=init_map))

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
