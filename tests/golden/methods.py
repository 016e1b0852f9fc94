"""Steps of methods against published code."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.losses.attention import attention_map
from jaxunlearn.losses.regression import on_targets
from jaxunlearn.methods import _saliency
from jaxunlearn.methods.blindspot import blindspot_loss
from jaxunlearn.methods.gated_transfer import band_pass
from jaxunlearn.metrics import influence

amnesiac = importlib.import_module("jaxunlearn.methods.gaussian_amnesiac")

ssd = importlib.import_module("jaxunlearn.methods.ssd")

KEY = jax.random.key(0)
NAMES = ("w1", "b1", "w2", "b2")


def _mlp():
  """The published network, with its layout of weights."""

  def apply(p, x):
    hidden = jax.nn.relu(x.reshape(len(x), -1) @ p["w1"].T + p["b1"][None])
    return hidden @ p["w2"].T + p["b2"][None]

  return from_functions(lambda key, x: None, apply)


def _params(d, prefix, names=NAMES):
  return {n: jnp.asarray(d[f"{prefix}{n}"], jnp.float32) for n in names}


# Regression.


def _blindspot_step(d):
  """Value and slopes of the mean over rows."""
  kind = "l2" if d["model_out"].ndim == 1 else "l1"
  last = lambda act: jnp.moveaxis(act, 1, -1)

  def layers(prefix):
    """The axis over which the released code averages comes last."""
    found = {}
    for i in range(4):
      if f"{prefix}_act{i}" in d:
        act = jnp.asarray(d[f"{prefix}_act{i}"])
        # Of a vector it averages all units: one position, many "channels".
        found[f"act{i}"] = act[:, None] if act.ndim == 2 else last(act)
    return found

  labels, forget = d["labels"], d["unlearn_flags"] == 1
  teacher = {n: attention_map(a) for n, a in layers("proxy").items()}

  def total(outputs, layers):
    return blindspot_loss(
      outputs,
      d["proxy_out"].reshape(labels.shape),
      on_targets(kind)(outputs, {"label": labels}),
      forget,
      {n: attention_map(a) for n, a in layers.items()},
      teacher,
      attention=float(d["at_beta"]),
      output_loss=kind,
    ).mean()

  outputs = jnp.asarray(d["model_out"])
  value, (slope, by_layer) = jax.jit(jax.value_and_grad(total, (0, 1)))(
    outputs, layers("model")
  )
  return value, slope, by_layer


def blindspot_step(d):
  value, slope, _ = _blindspot_step(d)
  return {"out_code": value, "grad_model_out_code": slope}


def slopes_of_blindspot_layers(d):
  out = {}
  for layer, found in _blindspot_step(d)[2].items():
    name = f"grad_{layer}_code"
    vector = d[name].ndim == 2
    out[name] = found[:, 0] if vector else jnp.moveaxis(found, -1, 1)
  return out


def moments_of_targets(d):
  mean, std = amnesiac.target_moments(d["labels"].astype(np.float32))
  return {"mean": mean, "std_ddof1": std}


def gaussian_targets(d):
  labels = d["labels"].astype(np.float32)
  forget = d["forget_mask"] == 1
  normal = np.zeros(len(labels), np.float32)
  normal[forget] = d["standard_normal_draws"]
  found = amnesiac.replace_targets(
    jnp.asarray(labels),
    jnp.asarray(forget),
    jnp.asarray(normal),
    *amnesiac.target_moments(labels),
  )
  np.testing.assert_array_equal(found[~forget], labels[~forget])
  return {"out_code": found}


# Influence, in float64.


def _influence(d, loss, start, damping, **options):
  model = from_functions(
    lambda key, x: jnp.zeros(x.shape[1]), lambda w, x: x @ w, loss=loss
  )
  change, info = influence.influence_of_request(
    model,
    ju.Variables(jnp.asarray(start)),
    {"x": jnp.asarray(d["X"]), "y": jnp.asarray(d["y"])},
    jnp.asarray(d["remove_mask"] == 1),
    damping=float(damping),
    chunk_size=64,
    tol=1e-13,
    max_steps=200,
    **options,
  )
  assert bool(info.is_converged)
  return start + np.asarray(change)


def influence_on_ridge(d):
  n, out = len(d["y"]), {}
  square = lambda out, rows: 0.5 * (out - rows["y"]) ** 2
  for convention in ("mean", "sum"):
    # A sum with ridge r is n times a mean with ridge r / n.
    damping = d["ridge_mean"] if convention == "mean" else d["ridge_sum"] / n
    start = d[f"params_full_{convention}"]
    found = [
      _influence(d, square, start, damping, curvature=curvature)
      for curvature in (
        influence.gauss_newton_vector_product,
        influence.hessian_vector_product,
      )
    ]
    assert np.abs(found[1] - found[0]).max() <= 1e-9 * np.abs(found[0]).max()
    out[f"influence_{convention}"] = found[0]
  return out


def influence_on_logistic(d):
  logistic = lambda out, rows: jnp.logaddexp(0.0, out) - rows["y"] * out
  start = d["params_full"]
  found = _influence(d, logistic, start, float(d["ridge_sum"]) / 200)
  # First order only: it goes the right way and most of it.
  before = np.linalg.norm(start - d["params_retrained"])
  assert np.linalg.norm(found - d["params_retrained"]) < 0.6 * before
  return {"influence": found}


# SalUn.


def largest_gradients(d):
  grads, out, counts = [jnp.asarray(d[f"grad_{n}"]) for n in NAMES], {}, []
  for ratio in d["ratios"]:
    masks = _saliency.largest(grads, float(ratio))
    counts.append(sum(int(mask.sum()) for mask in masks))
    for n, mask in zip(NAMES, masks):
      out[f"mask_{round(100 * ratio):03d}_{n}"] = mask
  return out | {"kept_counts": counts}


def counts_with_ties(d):
  """Ties are broken by place."""
  grads, counts = [d[f"grad_{n}"] for n in NAMES], []
  flat = np.concatenate([np.abs(g).ravel() for g in grads])
  order = sorted(range(flat.size), key=lambda i: (-flat[i], i))
  for ratio in d["ratios"]:
    masks = _saliency.largest(grads, float(ratio))
    found = np.concatenate([np.ravel(mask) for mask in masks])
    counts.append(found.sum())
    assert set(np.flatnonzero(found)) == set(order[: counts[-1]])
  return {"kept_counts": counts}


def saliency_order(d):
  """The mask holds the half with the largest mean forget gradient."""
  # Rows to keep beside the forget set, which must not matter.
  x = np.concatenate([d["x"], 5 * np.ones_like(d["x"][:4])])
  label = np.concatenate([d["y"], [0, 1, 2, 3]])
  data = {"x": jnp.asarray(x), "label": jnp.asarray(label)}
  mask = jnp.arange(15) < 11
  saliency = np.concatenate([d[f"saliency_paper_{n}"].ravel() for n in NAMES])
  for chunk in (4, 64):
    found = ju.methods.saliency_mask(_mlp(), 0.5, chunk_size=chunk)(
      ju.Variables(_params(d, "param_")), data, ju.Request(mask, ~mask), KEY
    )
    flat = np.concatenate([np.ravel(found[n]) for n in NAMES])
    assert flat.sum() == saliency.size // 2
    assert saliency[flat].min() >= saliency[~flat].max()
  return {}


# UNSIR and zero-shot transfer.


def impair_and_repair(d):
  params, out = _params(d, "model_"), {}
  for stage in ("impair", "repair"):
    data = {
      "x": jnp.asarray(d[f"{stage}_x"]),
      "label": jnp.asarray(d[f"{stage}_y"], jnp.int32),
    }
    step = ju.phase(
      ju.supervised(_mlp()),
      optax.adam(float(d[f"{stage}_lr"])),
      1,
      draw=ju.Draw(retain=ju.ALL),
    )
    variables, info = step(ju.Variables(params), data, jnp.zeros(20, bool), KEY)
    params = variables.params
    out[f"{stage}_loss"] = info.loss[0]
    out |= {f"{stage}_{name}": params[name] for name in NAMES}
  return out


def band_pass_filter(d):
  classes = jnp.arange(10) == int(d["forget_class"])
  kept = band_pass(
    jnp.asarray(d["teacher_logits"]), classes, float(d["threshold"])
  )
  return {"keep_mask": kept}


# SSD.


def importance(d):
  data = {"x": jnp.asarray(d["x"]), "label": jnp.asarray(d["y"])}
  variables, out = ju.Variables(_params(d, "param_")), {}
  for of, size in (("full", 30), ("forget", int(d["forget_count"]))):
    for name, options in (
      ("bs1", {"estimator": "batch", "batch_size": 1}),
      ("bs4", {"estimator": "batch", "batch_size": 4}),
      ("paper", {"estimator": "example", "batch_size": 7}),
    ):
      rows = jnp.arange(30) < size
      found = ssd.importance(_mlp(), variables, data, rows, **options)
      out |= {f"importance_{of}_{name}_{n}": found[n] for n in NAMES}
  return out


def dampening(d):
  params = _params(d, "param_")
  out = ssd.dampen(
    params,
    _params(d, "importance_forget_"),
    _params(d, "importance_full_"),
    alpha=float(d["alpha"]),
    dampening=float(d["lam"]),
  )
  for n in NAMES:
    untouched = d[f"selected_{n}"] == 0
    np.testing.assert_array_equal(out[n][untouched], params[n][untouched])
  return {f"out_code_{n}": out[n] for n in NAMES}
