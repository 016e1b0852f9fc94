"""Losses on tokens against the published trainers of language models."""

import jax
import jax.numpy as jnp

from jaxunlearn import losses
from jaxunlearn.losses import sequences


def mean(values, mask):
  return (values * mask).sum() / mask.sum()


class Side:
  """Logits and labels as published, shifted: position t predicts label t + 1."""

  def __init__(self, d, name):
    labels = jnp.asarray(d[f"{name}_labels"])
    self.counts = labels[:, 1:] != -100
    self.labels = jnp.where(self.counts, labels[:, 1:], 0)
    self.unshifted = labels != -100
    reference = d.get(f"ref_{name}_logits")
    if reference is not None:
      self.reference = jnp.asarray(reference)

  def log_probs(self, logits):
    return sequences.token_log_prob(logits[:, :-1], self.labels)

  def loss(self, logits):
    return -mean(self.log_probs(logits), self.counts)

  def scores(self, logits):
    return (self.log_probs(logits) * self.counts).sum(axis=1)

  def lengths(self):
    return self.counts.sum(axis=1)

  def kl(self, logits):
    return losses.kl_to_teacher(logits, self.reference)


def term(d, forget_loss, retain_loss=None, alternate=False, **weights):
  """Value of `out_code` and its gradients, of a forget and a retain loss."""
  sides = {"forget": Side(d, "forget")}
  if alternate:
    sides["alternate"] = Side(d, "alternate")
  if retain_loss is not None:
    sides["retain"] = Side(d, "retain")
  gamma = weights.get("gamma", 1.0)
  alpha = weights.get("alpha", 1.0)

  def total(logits):
    names = ["forget", *["alternate"] * alternate]
    args = [a for n in names for a in (sides[n], logits[n])]
    value = gamma * forget_loss(*args)
    if retain_loss is not None:
      value = value + alpha * retain_loss(sides["retain"], logits["retain"])
    return value

  logits = {n: jnp.asarray(d[f"{n}_logits"]) for n in sides}
  value, grads = jax.jit(jax.value_and_grad(total))(logits)
  found = {f"grad_{n}_logits_code": g for n, g in grads.items()}
  return {"out_code": value} | found


def retained(side, logits):
  return side.loss(logits)


def kl_everywhere(side, logits):
  return side.kl(logits).mean()


def ascent(side, logits):
  return -side.loss(logits)


def grad_ascent(d):
  return term(d, ascent)


def grad_diff_nll(d):
  return term(d, ascent, retained)


def grad_diff_kl(d):
  side, logits = Side(d, "retain"), jnp.asarray(d["retain_logits"])
  per_position = side.kl(logits)
  supervised = mean(per_position[:, :-1], side.counts)
  forget = Side(d, "forget").loss(jnp.asarray(d["forget_logits"]))
  return term(d, ascent, kl_everywhere) | {
    "kl_per_position": per_position,
    "out_supervised_positions_only": supervised - forget,
  }


def _npo(d):
  def loss(side, logits):
    scores = side.scores(logits), side.scores(side.reference)
    return sequences.npo(*scores, float(d["beta"])).mean()

  return loss


def npo(d):
  return term(d, _npo(d), retained)


def npo_alone(d):
  return term(d, _npo(d))


def weighted(d, name):
  return {"gamma": float(d["npo_coeff"]), "alpha": float(d[name])}


def npo_grad_diff(d):
  return term(d, _npo(d), retained, **weighted(d, "grad_diff_coeff"))


def npo_kl(d):
  return term(d, _npo(d), kl_everywhere, **weighted(d, "kl_coeff"))


def kl_minimisation(d):
  return term(d, ascent, kl_everywhere)


def _dpo(d):
  def loss(forget, logits, other, other_logits):
    return sequences.dpo(
      forget.scores(logits),
      forget.scores(forget.reference),
      other.scores(other_logits),
      other.scores(other.reference),
      float(d["beta"]),
    ).mean()

  return loss


def dpo(d):
  return term(d, _dpo(d), retained, alternate=True)


def dpo_alone(d):
  return term(d, _dpo(d), alternate=True)


def kto_sigmoid(d):
  other = Side(d, "alternate")
  gains = other.scores(jnp.asarray(d["alternate_logits"])) - other.scores(
    other.reference
  )

  def loss(side, logits):
    scores = side.scores(logits), side.scores(side.reference)
    return sequences.kto_sigmoid(*scores, gains.mean(), float(d["beta"])).mean()

  return term(d, loss)


def _simnpo(d, margin, count="shifted"):
  def loss(side, logits):
    lengths = side.lengths() if count == "shifted" else side.unshifted.sum(1)
    return sequences.simnpo(
      side.scores(logits), lengths, float(d["beta"]), float(d[margin])
    ).mean()

  return loss


def simnpo(d):
  """The released code counts an active label at position 0 too."""
  paper = term(d, _simnpo(d, "delta"), retained)["out_code"]
  return term(d, _simnpo(d, "delta", "unshifted"), retained) | {
    "out_paper": paper
  }


def simnpo_alone(d):
  return term(d, _simnpo(d, "gamma"))


def simnpo_grad_diff(d):
  return term(
    d, _simnpo(d, "gamma"), retained, **weighted(d, "grad_diff_coeff")
  )


def inverted_hinge(d):
  def loss(side, logits):
    hinge = sequences.inverted_hinge(logits[:, :-1], side.labels)
    return mean(hinge, side.counts)

  found = term(d, loss, retained)
  term_alone = term(d, loss)["out_code"]
  out = {"forget_term_paper": term_alone, "out_paper": found["out_code"]}
  logits = d["forget_logits"]
  if (logits < 0).any() or (logits > 1).any():  # Else no softmax is taken.
    out |= found
  return out


def undial(d):
  side = Side(d, "forget")
  logits = jnp.asarray(d["forget_logits"])
  labels = d["forget_labels"][:, 1:]
  # The released code takes a label of -100 for one counted from the end.
  as_released = jnp.where(labels == -100, logits.shape[-1] - 100, labels)

  def loss(logits, labels):
    return sequences.undial(
      logits[:, :-1], side.reference[:, :-1], labels, float(d["beta"])
    )

  found = term(
    d, lambda side, logits: loss(logits, as_released).mean(), retained
  )
  retain = Side(d, "retain").loss(jnp.asarray(d["retain_logits"]))
  supervised = mean(loss(logits, side.labels), side.counts)
  return found | {
    "cross_entropy_per_position": loss(logits, as_released),
    "out_supervised_positions_only": supervised + retain,
  }


def _weighed_ascent(weight):
  def loss(side, logits):
    log_probs = side.log_probs(logits)
    return mean(weight(log_probs) * log_probs, side.counts)

  return loss


def wga(d):
  weight = lambda p: sequences.wga_weight(p, float(d["beta"]))
  return term(d, _weighed_ascent(weight), retained)


def satimp(d):
  betas = float(d["beta1"]), float(d["beta2"])
  weight = lambda p: sequences.satimp_weight(p, *betas)
  return term(d, _weighed_ascent(weight), retained)


def ceu(d):
  def loss(side, logits):
    first = jnp.cumsum(side.counts, axis=1) > int(
      d["ignore_first_n_answer_tokens"]
    )
    values = sequences.ceu(logits[:, :-1], side.labels)
    return mean(values, side.counts & first)

  return term(d, loss)


def pdu(d):
  """The released code reads the labels unshifted."""

  def loss(side, logits):
    return mean(sequences.logit_spread(logits), side.unshifted)

  def violation(side, logits):
    return side.loss(logits) - float(d["retain_loss_eps"])

  return term(d, loss, violation)


def rmu(d):
  masks = {n: d[f"{n}_labels"] != -100 for n in ("forget", "retain")}
  acts = {n: jnp.asarray(d[f"{n}_activations"]) for n in masks}
  targets = {
    "forget": d["control_vector"],
    "retain": d["ref_retain_activations"],
  }

  def per_row(name, states, scale=1.0):
    apart = sequences.states_apart(states, jnp.asarray(targets[name]))
    return scale * (apart * masks[name]).sum(axis=1)

  def released(name, states):
    """Sums [B] over counts [B, 1] make a table [B, B]."""
    counts = masks[name].sum(axis=1)
    return per_row(name, states).mean() * (1 / counts).mean()

  def of_rows(name, scale=1.0):
    sums = per_row(name, acts[name], scale)
    return (sums / masks[name].sum(axis=1)).mean()

  out = {}
  for name in masks:
    value, grad = jax.value_and_grad(lambda s, n=name: released(n, s))(
      acts[name]
    )
    width = acts[name].shape[-1]
    out |= {
      f"{name}_term_code": value,
      f"grad_{name}_act_code": grad,
      f"{name}_term_row_normalised": of_rows(name),
      f"{name}_term_paper": of_rows(name, width),
    }
  for kind, which in (
    ("code", "term_code"),
    ("row_normalised", "term_row_normalised"),
    ("paper", "term_paper"),
  ):
    out[f"out_{kind}"] = out[f"forget_{which}"] + out[f"retain_{which}"]
  return out
