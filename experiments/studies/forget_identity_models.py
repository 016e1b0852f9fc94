"""Small representations with the objectives of five papers; encoders are here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

import jaxunlearn as ju
from jaxunlearn import losses
from jaxunlearn.core.tasks import Task
from jaxunlearn.core.types import Losses
from jaxunlearn.identity import cion, dlif, infinite_id, retain_mean, wsc_swap
from jaxunlearn.identity.vectors import unit

from .forget_identity_generators import disenbooth_model, infinite_id_model
from .forget_identity_parts import SIZE, WIDTH, Representation, fresh, net_of

PROTOTYPES = 24


def _encoder(task, view, logits) -> Representation:
  respond = lambda variables, step, key: view(variables, step.rows)
  mean = retain_mean(respond)
  return Representation(task, view, view, logits, respond, mean, mean)


def cion_model(known: int) -> Representation:
  """Prototypes are taught by a running average of the network."""
  init_net, net = net_of(WIDTH)

  def out(params, x):
    return dlif.cosine_scores(net(params["net"], x), params["head"])

  def init(key, data):
    params = fresh(key, net=init_net, head=(WIDTH, PROTOTYPES))
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
  init_net, net = net_of(WIDTH)

  def branch(params, name, x):
    return unit(net(params[name], x))

  def init(key, data):
    heads = {"live": (WIDTH, 2), "who": (WIDTH, known)}
    return ju.Variables(fresh(key, u=init_net, v=init_net, **heads))

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
  (init_net, net), (init_critic, critic) = net_of(WIDTH), net_of(known, WIDTH)
  init_made, made = net_of(SIZE, 2 * WIDTH)
  init_reader, reader = net_of(5)
  still = jax.lax.stop_gradient

  def init(key, data):
    nets = {"face": init_net, "rest": init_net, "critic": init_critic}
    nets |= {"make": init_made, "reader": init_reader}
    return ju.Variables(fresh(key, **nets, head=(WIDTH, known)))

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


MODELS: Mapping[str, Callable[[int], Representation]] = {
  "cion": cion_model,
  "dlif": dlif_model,
  "wsc-swap": wsc_model,
  "disenbooth": disenbooth_model,
  "infinite-id": infinite_id_model,
}
