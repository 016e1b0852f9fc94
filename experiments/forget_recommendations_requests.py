"""The grammar of `--requests`; see `datasets.interaction_requests`."""

from experiments.datasets.interaction_requests import FORMS as FORMS
from experiments.datasets.interaction_requests import parse as parse
