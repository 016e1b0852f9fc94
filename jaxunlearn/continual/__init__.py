"""Continual learning and unlearning: a stream of events, run by one program.

    stream = task_stream(task, [learn(0), learn(1), forget(0), learn(2)])
    learner = clu(model, optimizer=optax.sgd(0.05), num_steps=150,
                  batch_size=32, buffer_size=200)
    state = learner.init(model.init(key, x[:1]), data, key)
    state, infos, logits = jax.jit(
      lambda s, st, k: run_stream(
        learner, s, data, st, k, record=lambda s: learner.predict(s, test_x)
      )
    )(state, stream, key)

A learner is a few pure functions of a state that is a pytree, see `Learner`.
"""

from jaxunlearn.continual import metrics as metrics
from jaxunlearn.continual.acu import Acu as Acu
from jaxunlearn.continual.acu import AcuHead as AcuHead
from jaxunlearn.continual.acu import acu as acu
from jaxunlearn.continual.acu import acu_logits as acu_logits
from jaxunlearn.continual.acu import acu_ridge as acu_ridge
from jaxunlearn.continual.acu_features import random_relu as random_relu
from jaxunlearn.continual.acu_stream import AcuByClass as AcuByClass
from jaxunlearn.continual.acu_stream import AcuStream as AcuStream
from jaxunlearn.continual.acu_stream import AcuStreamInfo as AcuStreamInfo
from jaxunlearn.continual.acu_stream import acu_by_class as acu_by_class
from jaxunlearn.continual.acu_stream import (
  acu_leave_one_out as acu_leave_one_out,
)
from jaxunlearn.continual.acu_stream import acu_stream as acu_stream
from jaxunlearn.continual.baselines import derpp as derpp
from jaxunlearn.continual.baselines import ewc as ewc
from jaxunlearn.continual.baselines import (
  experience_replay as experience_replay,
)
from jaxunlearn.continual.baselines import lwf as lwf
from jaxunlearn.continual.baselines import naive as naive
from jaxunlearn.continual.buffer import Buffer as Buffer
from jaxunlearn.continual.buffer import draw as draw
from jaxunlearn.continual.buffer import empty_buffer as empty_buffer
from jaxunlearn.continual.buffer import offer as offer
from jaxunlearn.continual.buffer import purge as purge
from jaxunlearn.continual.clu import CLUMemory as CLUMemory
from jaxunlearn.continual.clu import Embedding as Embedding
from jaxunlearn.continual.clu import Teacher as Teacher
from jaxunlearn.continual.clu import Untrained as Untrained
from jaxunlearn.continual.clu import clu as clu
from jaxunlearn.continual.replay import ReplayState as ReplayState
from jaxunlearn.continual.replay import Rule as Rule
from jaxunlearn.continual.replay import replay_learner as replay_learner
from jaxunlearn.continual.retrained import retraining as retraining
from jaxunlearn.continual.stream import Event as Event
from jaxunlearn.continual.stream import forget as forget
from jaxunlearn.continual.stream import learn as learn
from jaxunlearn.continual.stream import learned_after as learned_after
from jaxunlearn.continual.stream import mask_stream as mask_stream
from jaxunlearn.continual.stream import run_stream as run_stream
from jaxunlearn.continual.stream import state_bytes as state_bytes
from jaxunlearn.continual.stream import task_stream as task_stream
from jaxunlearn.continual.tame import Surprise as Surprise
from jaxunlearn.continual.tame import tame as tame
from jaxunlearn.continual.tame_forget import TameForgetInfo as TameForgetInfo
from jaxunlearn.continual.tame_forget import (
  tame_forget_examples as tame_forget_examples,
)
from jaxunlearn.continual.tame_forget import (
  tame_forget_task as tame_forget_task,
)
from jaxunlearn.continual.tame_selector import TamePrediction as TamePrediction
from jaxunlearn.continual.tame_selector import tame_predict as tame_predict
from jaxunlearn.continual.tame_selector import (
  tame_prune_experts as tame_prune_experts,
)
from jaxunlearn.continual.tame_selector import tame_selector as tame_selector
from jaxunlearn.continual.tame_types import Tame as Tame
from jaxunlearn.continual.tame_types import TameInfo as TameInfo
from jaxunlearn.continual.tame_types import TameState as TameState
from jaxunlearn.continual.types import EventInfo as EventInfo
from jaxunlearn.continual.types import Learner as Learner
from jaxunlearn.continual.types import Ledger as Ledger
from jaxunlearn.continual.types import Stream as Stream
