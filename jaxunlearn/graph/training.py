"""Training on a graph, full batch: the library's functions under `batch_size=ALL`.

Class: `train` and `retrain` are exact.
Cost: a step is one pass over the whole graph, whatever the batch, so that by
default it takes every row. Non-edges are drawn among the pairs that no edge
that is left joins: the retrained model does not know what was deleted.
"""

from __future__ import annotations

import functools

from jaxunlearn.core import training
from jaxunlearn.core.types import ALL
from jaxunlearn.methods import baselines

train = functools.partial(training.train, batch_size=ALL)
train_many = functools.partial(training.train_many, batch_size=ALL)
retrain = functools.partial(baselines.retrain, batch_size=ALL)
