"""Puts the studies into the wheel, as `jaxunlearn.experiments`.

An editable install finds them in the checkout.
"""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Studies(BuildHookInterface):
  def initialize(self, version, build_data):
    if version != "editable":
      build_data["force_include"]["experiments"] = "jaxunlearn/experiments"
