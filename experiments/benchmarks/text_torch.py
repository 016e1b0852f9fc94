"""The other side of `text_losses`: a decoder and the losses in plain PyTorch.

A Llama block as one writes it by hand, and each loss from its formula in the paper:
tokens that count have a label, sums over them are a row's log p.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

Params = dict[str, Any]
Loss = Callable[["Case", Params, Params], torch.Tensor]


class Rows(NamedTuple):
  """Texts as tensors.

  Attributes:
    tokens: int64 [B, L].
    counts: bool [B, L - 1], which of the tokens 1, 2, ... count.
  """

  tokens: torch.Tensor
  counts: torch.Tensor


class Case(NamedTuple):
  """What a loss reads.

  Attributes:
    config: a `DecoderConfig`.
    forget: rows to be forgotten.
    retain: rows to be kept.
    alternative: those to be forgotten with refusals.
  """

  config: Any
  forget: Rows
  retain: Rows
  alternative: Rows


def rows_of(x: Any) -> Rows:
  """Of a `Text`."""
  tokens, length, prompt = (np.asarray(leaf) for leaf in x)
  at = np.arange(1, tokens.shape[1])[None]
  counts = (at >= prompt[:, None]) & (at < length[:, None])
  return Rows(
    torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(counts)
  )


def params_of(tree: Any) -> Params:
  """The library's parameters as tensors that have a gradient."""
  if isinstance(tree, Mapping):
    return {name: params_of(leaf) for name, leaf in tree.items()}
  return torch.from_numpy(np.array(tree)).requires_grad_()


def leaves(params: Params) -> list[torch.Tensor]:
  """All tensors, in the order of their names."""
  found = []
  for name in sorted(params):
    value = params[name]
    found += leaves(value) if isinstance(value, dict) else [value]
  return found


def frozen(params: Params) -> Params:
  """A copy without gradients."""
  made = copy.deepcopy(params)
  for leaf in leaves(made):
    leaf.requires_grad_(False)
  return made


def logits(config: Any, params: Params, tokens: torch.Tensor) -> torch.Tensor:
  """What predicts tokens 1, 2, ...: [B, L - 1, V]."""
  heads, size = config.num_heads, config.head_dim
  half = size // 2
  speed = config.rope_theta ** (-torch.arange(half) / half)
  angle = torch.arange(tokens.shape[1])[:, None] * speed
  cos, sin = angle.cos(), angle.sin()

  def norm(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, scale.shape, scale, config.norm_eps)

  def turned(x: torch.Tensor) -> torch.Tensor:
    first, second = x[..., :half], x[..., half:]
    return torch.cat(
      (first * cos - second * sin, second * cos + first * sin), -1
    )

  def split(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (heads, size)).transpose(1, 2)

  x, blocks = (
    F.embedding(tokens, params["embed"]["embedding"]),
    params["blocks"],
  )
  attention, mlp = blocks["attention"], blocks["mlp"]
  for i in range(config.num_layers):
    h = norm(x, blocks["norm_1"]["scale"][i])
    q, k, v = (split(h @ attention[n]["kernel"][i]) for n in ("q", "k", "v"))
    h = F.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
    x = x + h.transpose(1, 2).flatten(-2) @ attention["o"]["kernel"][i]
    h = norm(x, blocks["norm_2"]["scale"][i])
    gate, up = (h @ mlp[n]["kernel"][i] for n in ("gate", "up"))
    x = x + (F.silu(gate) * up) @ mlp["down"]["kernel"][i]
  return (
    norm(x, params["norm"]["scale"])[:, :-1] @ params["embed"]["embedding"].T
  )


def _token_log_p(case: Case, params: Params, rows: Rows) -> torch.Tensor:
  """[B, L - 1], 0 where tokens do not count."""
  scores = logits(case.config, params, rows.tokens)
  nll = F.cross_entropy(
    scores.transpose(1, 2), rows.tokens[:, 1:], reduction="none"
  )
  return -nll * rows.counts


def _mean(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
  return (values * counts).sum() / counts.sum()


def _nll(case: Case, params: Params, rows: Rows) -> torch.Tensor:
  return _mean(-_token_log_p(case, params, rows), rows.counts)


def _ascent(case: Case, params: Params, original: Params) -> torch.Tensor:
  return -_nll(case, params, case.forget)


def _gain(
  case: Case, params: Params, original: Params, rows: Rows
) -> torch.Tensor:
  """log p / p of the original, of whole answers: [B]."""
  with torch.no_grad():
    before = _token_log_p(case, original, rows).sum(1)
  return _token_log_p(case, params, rows).sum(1) - before


def _npo(
  case: Case, params: Params, original: Params, beta: float = 0.1
) -> torch.Tensor:
  lost = _gain(case, params, original, case.forget)
  return -2 / beta * F.logsigmoid(-beta * lost).mean()


def _dpo(
  case: Case, params: Params, original: Params, beta: float = 0.1
) -> torch.Tensor:
  won = _gain(case, params, original, case.alternative)
  lost = _gain(case, params, original, case.forget)
  return -2 / beta * F.logsigmoid(beta * (won - lost)).mean()


def _simnpo(
  case: Case, params: Params, original: Params, beta: float = 2.5
) -> torch.Tensor:
  rows = case.forget
  mean = _token_log_p(case, params, rows).sum(1) / rows.counts.sum(1)
  return -2 / beta * F.logsigmoid(-beta * mean).mean()


def _idk(case: Case, params: Params, original: Params) -> torch.Tensor:
  return _nll(case, params, case.alternative)


def _weighted(weight: Callable[[torch.Tensor], torch.Tensor]) -> Loss:
  def loss(case: Case, params: Params, original: Params) -> torch.Tensor:
    log_p = _token_log_p(case, params, case.forget)
    return _mean(weight(log_p.detach().exp()) * log_p, case.forget.counts)

  return loss


def _undial(
  case: Case, params: Params, original: Params, strength: float = 10.0
) -> torch.Tensor:
  rows = case.forget
  with torch.no_grad():
    teacher = logits(case.config, original, rows.tokens)
    taken = F.one_hot(rows.tokens[:, 1:], teacher.shape[-1])
    target = (teacher - strength * taken).softmax(-1)
  log_p = logits(case.config, params, rows.tokens).log_softmax(-1)
  return _mean(-(target * log_p).sum(-1), rows.counts)


def _ceu(case: Case, params: Params, original: Params) -> torch.Tensor:
  rows = case.forget
  scores = logits(case.config, params, rows.tokens)
  true = F.one_hot(rows.tokens[:, 1:], scores.shape[-1]).bool()
  target = scores.detach().masked_fill(true, -torch.inf).softmax(-1)
  value = -(target * scores.log_softmax(-1)).sum(-1)
  return _mean(value, rows.counts)


# Each beside the mean loss of retain tokens.
LOSSES: Mapping[str, Loss] = {
  "grad_diff": _ascent,
  "npo": _npo,
  "simnpo": _simnpo,
  "dpo": _dpo,
  "idk": _idk,
  "wga": _weighted(lambda p: p),
  "satimp": _weighted(lambda p: p**5 * (1 - p)),
  "undial": _undial,
  "ceu": _ceu,
}


def steps(
  case: Case,
  params: Params,
  name: str,
  optimizer: Callable[..., torch.optim.Optimizer],
  count: int,
) -> list[float]:
  """The losses of so many steps, each on all rows; params are changed.

  Args:
    case: see there.
    params: to start from.
    name: one of `LOSSES`.
    optimizer: made of the tensors.
    count: >= 1.
  """
  original, found = frozen(params), []
  stepper = optimizer(leaves(params))
  for _ in range(count):
    stepper.zero_grad()
    loss = LOSSES[name](case, params, original)
    loss = loss + _nll(case, params, case.retain)
    loss.backward()
    stepper.step()
    found.append(float(loss.detach()))
  return found
