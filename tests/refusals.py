"""Bad input: what is called, with what, and what the error says in one line."""

import pytest


def refused(message, call, *args, **kwargs):
  with pytest.raises(ValueError, match=message) as told:
    call(*args, **kwargs)
  assert "\n" not in str(told.value)
