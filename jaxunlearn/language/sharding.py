"""How a decoder's weights lie on a mesh of devices.

Columns of q, k, v, gate and up, and rows of o and down, over the axis "tensor":
heads and hidden units are whole on a device, and a block sums over devices
twice. The other side over "fsdp", which stores a share and gathers it for use.
"""

from __future__ import annotations

import functools

from jaxunlearn.core import sharding
from jaxunlearn.core.sharding import Rules as Rules

RULES: Rules = {
  r"embed/embedding": ("tensor", "fsdp"),
  r"positions/embedding": (None, "fsdp"),
  r"(q|k|v|gate|up)/kernel": (None, "fsdp", "tensor"),
  r"(q|k|v|gate|up)/bias": (None, "tensor"),
  r"(o|down)/kernel": (None, "tensor", "fsdp"),
  r"head/kernel": ("fsdp", "tensor"),
}

# As of `core.sharding`, by these rules.
shardings = functools.partial(sharding.shardings, rules=RULES)
sharded = functools.partial(sharding.sharded, rules=RULES)
