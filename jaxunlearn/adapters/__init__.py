"""Ways in: models from Flax or plain functions, checkpoints from Orbax.

Import by name what you use, `from jaxunlearn.adapters import flax`: this
module imports nothing, so that the package works without Flax and Orbax.
"""
