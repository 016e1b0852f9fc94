"""Requests one after the other: what a method makes of its own results.

A lane is one step of the sequence under one seed, so that retraining, the audit
and the report are those of single requests, with masks that grow. Only the
unlearning differs: the whole sequence of a seed is one `lax.scan`, and so ten
requests compile what one does.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

import jaxunlearn as ju
from experiments import common, methods, study
from jaxunlearn.core.drivers import unlearn_sequence


def unlearn(
  this: study.Study,
  name: str,
  settings: methods.Settings,
  original: study.Trained,
) -> study.Trained:
  """One method on every step of the sequence, for every seed.

  Args:
    this: a study with `is_sequence`.
    name: of the method.
    settings: of the method.
    original: the models that the first request finds.

  Returns:
    The models after each step, with leaves [L, ...].
  """
  method = methods.METHODS[name]
  steps = len(this.masks)
  phases: list[str] = []

  def program(train, masks, added, keys, held_out, variables, ledgers):
    def one_seed(seed):
      # The first key is that of a request alone, whose numbers it thus gives.
      later = jax.vmap(lambda k: jax.random.fold_in(keys[seed], k))
      step_keys = jnp.concatenate(
        [keys[seed][None], later(jnp.arange(1, steps))]
      )

      def serve(variables, data, request, key, ledger):
        access = this.access._replace(held_out=held_out, ledger=ledger)
        transform = method.make(access, settings)
        unlearned, info = transform(variables, data, request, key)
        return unlearned, study.losses_of(info, phases)

      start = study.at(variables, seed)
      if method.zero_shot:
        # Nothing in the rows tells it of classes that are gone already. Asked
        # of the newest alone it would keep the others, and bring them back.
        def again(variables, inputs):
          made = serve(variables, train, *inputs, None)
          return made[0], made

        return jax.lax.scan(again, start, (masks, step_keys))[1]
      return unlearn_sequence(
        serve,
        start,
        train,
        added,
        step_keys,
        _newly_taken(study.at(ledgers, seed)),
      )

    seeds = jnp.arange(this.num_seeds)
    made = ju.map_many(one_seed, seeds, strategy=this.strategy)
    # [S, R, ...] to lanes, request by request.
    return jax.tree.map(
      lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), made
    )

  done = common.timed(
    program,
    this.train,
    this.masks,
    this.added,
    this.unlearn_keys,
    this.test,
    original.variables,
    original.ledger if method.needs_ledger else None,
  )
  return study.as_trained(this, done, phases)


def _newly_taken(ledger):
  """What each request takes back beyond the requests before it.

  A ledger's entry k holds the updates that saw any row forgotten by step k; the
  ones that saw an earlier row were taken back then.
  """
  return jax.tree.map(
    lambda leaf: leaf.at[1:].add(-leaf[:-1], mode="promise_in_bounds"), ledger
  )
