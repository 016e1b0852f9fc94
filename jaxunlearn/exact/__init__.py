"""Exact unlearning: systems that never mixed what may have to be parted.

    where = exact.layout(num_rows, num_shards=3, num_slices=4, key=key)
    system = exact.s3t(model, backbone, where, exact.sequences(4, 4), fit)
    state = jax.jit(system.fit)(data, key)
    state, cost = system.delete.compiled(state, data, mask, key)
    logits = ju.predict(system.model, state, x)

After a deletion the state is, bit for bit where it counts, that of a system to
which the deleted rows were something else. No statistics are needed to say so.
"""

from jaxunlearn.exact.layout import Layout as Layout
from jaxunlearn.exact.layout import RetrainRequired as RetrainRequired
from jaxunlearn.exact.layout import System as System
from jaxunlearn.exact.layout import expected_cost as expected_cost
from jaxunlearn.exact.layout import expected_deletions as expected_deletions
from jaxunlearn.exact.layout import layout as layout
from jaxunlearn.exact.lora import low_rank as low_rank
from jaxunlearn.exact.s3t import s3t as s3t
from jaxunlearn.exact.s3t import s3t_delete as s3t_delete
from jaxunlearn.exact.s3t import shorten as shorten
from jaxunlearn.exact.sequences import sequences as sequences
from jaxunlearn.exact.sisa import sisa as sisa
from jaxunlearn.exact.sisa import sisa_delete as sisa_delete
from jaxunlearn.exact.sisa import stage_steps as stage_steps
