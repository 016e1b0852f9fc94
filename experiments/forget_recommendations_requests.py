"""The grammar of `--requests`; see `datasets.interaction_requests`."""

from .datasets.interaction_requests import FORMS as FORMS
from .datasets.interaction_requests import parse as parse
