"""jaxunlearn: machine unlearning as pure, composable transforms in JAX.

    forget_mask = ju.requests.classes(data["label"], [3])
    unlearn = ju.methods.unsir(model, num_classes=10)
    unlearned, info = jax.jit(unlearn)(variables, data, forget_mask, key)

Flax models come in through `jaxunlearn.adapters.flax`, checkpoints through
`jaxunlearn.adapters.orbax`; both are imported by name.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jaxunlearn import attribution as attribution
  from jaxunlearn import continual as continual
  from jaxunlearn import diffusion as diffusion
  from jaxunlearn import exact as exact
  from jaxunlearn import gan as gan
  from jaxunlearn import graph as graph
  from jaxunlearn import identity as identity
  from jaxunlearn import language as language
  from jaxunlearn import nas as nas
  from jaxunlearn import recsys as recsys
  from jaxunlearn import tables as tables
  from jaxunlearn import valuation as valuation
  from jaxunlearn import vision_language as vision_language
  from jaxunlearn._api import *  # noqa: F403

__version__ = "0.2.0"

# Rooms of a domain, imported when they are first asked for.
_ROOMS = (
  "attribution",
  "continual",
  "diffusion",
  "exact",
  "gan",
  "graph",
  "identity",
  "language",
  "nas",
  "recsys",
  "tables",
  "valuation",
  "vision_language",
)


def __getattr__(name: str) -> Any:
  if name in _ROOMS:
    return importlib.import_module(f"jaxunlearn.{name}")
  # JAX is imported with the first name that needs it: help does without.
  api = importlib.import_module("jaxunlearn._api")
  public = {known for known in vars(api) if not known.startswith("_")}
  if name == "__all__":
    return sorted(
      public.union(_ROOMS), key=lambda n: (not n.isupper(), n[0].islower(), n)
    )
  if name in public:
    return getattr(api, name)
  for home in ("methods", "core"):
    module = importlib.import_module(f"jaxunlearn.{home}")
    if name in module.__all__:
      warnings.warn(
        f"jaxunlearn.{name} is jaxunlearn.{home}.{name} from 0.2 on, and goes "
        "in 0.3.",
        DeprecationWarning,
        stacklevel=2,
      )
      return getattr(module, name)
  raise AttributeError(f"module 'jaxunlearn' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*globals(), *__getattr__("__all__")})
