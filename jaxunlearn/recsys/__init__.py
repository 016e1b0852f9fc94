"""Recommendation unlearning: interactions under a mask.

Data is {"x": int [N, 2]} of (user, item), a request a bool mask [N] over it, and
a method an ordinary `Transform`.
"""

from jaxunlearn.core.training import train as train
from jaxunlearn.core.training import train_many as train_many
from jaxunlearn.methods.baselines import retrain as retrain
from jaxunlearn.recsys import requests as requests
from jaxunlearn.recsys.baselines import amnesiac as amnesiac
from jaxunlearn.recsys.baselines import finetune as finetune
from jaxunlearn.recsys.baselines import gradient_ascent as gradient_ascent
from jaxunlearn.recsys.baselines import reverse_only as reverse_only
from jaxunlearn.recsys.baselines import unlink as unlink
from jaxunlearn.recsys.data import Dataset as Dataset
from jaxunlearn.recsys.data import interactions as interactions
from jaxunlearn.recsys.data import split_by_user as split_by_user
from jaxunlearn.recsys.data import synthetic as synthetic
from jaxunlearn.recsys.evaluation import Ranking as Ranking
from jaxunlearn.recsys.evaluation import evaluator as evaluator
from jaxunlearn.recsys.evaluation import popularity as popularity
from jaxunlearn.recsys.evaluation import ranking as ranking
from jaxunlearn.recsys.graphs import Graph as Graph
from jaxunlearn.recsys.graphs import interaction_graph as interaction_graph
from jaxunlearn.recsys.graphs import item_neighbours as item_neighbours
from jaxunlearn.recsys.graphs import propagate as propagate
from jaxunlearn.recsys.mmrecun import mmrecun as mmrecun
from jaxunlearn.recsys.models import bpr_mf as bpr_mf
from jaxunlearn.recsys.models import from_module as from_module
from jaxunlearn.recsys.models import lightgcn as lightgcn
from jaxunlearn.recsys.models import mgcn as mgcn
from jaxunlearn.recsys.models import vbpr as vbpr
from jaxunlearn.recsys.receraser import balanced_shards as balanced_shards
from jaxunlearn.recsys.receraser import receraser as receraser
from jaxunlearn.recsys.receraser import sharded as sharded
from jaxunlearn.recsys.receraser import train_shards as train_shards
from jaxunlearn.recsys.scif import scif as scif
from jaxunlearn.recsys.types import Embeddings as Embeddings
from jaxunlearn.recsys.types import Recommender as Recommender
