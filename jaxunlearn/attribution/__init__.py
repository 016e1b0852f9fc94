"""Where a model keeps what it knows."""

from jaxunlearn.attribution.causal_trace import Corruption as Corruption
from jaxunlearn.attribution.causal_trace import Trace as Trace
from jaxunlearn.attribution.causal_trace import causal_trace as causal_trace
