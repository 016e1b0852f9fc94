"""The frame that every study runs in.

`study` says what a study is made of and how to write one; what it needs is here.
"""

from . import table as table
from .left_out import NOTHING_KEPT as NOTHING_KEPT
from .left_out import leave_out as leave_out
from .left_out import of_given as of_given
from .left_out import origin as origin
from .options import CommonOptions as CommonOptions
from .options import RecipeOptions as RecipeOptions
from .options import TrainingOptions as TrainingOptions
from .options import given as given
from .study import AGAIN as AGAIN
from .study import ORIGINAL as ORIGINAL
from .study import REFERENCES as REFERENCES
from .study import REPORT as REPORT
from .study import RETRAINED as RETRAINED
from .study import SELECT as SELECT
from .study import Bed as Bed
from .study import Beds as Beds
from .study import Case as Case
from .study import Evidence as Evidence
from .study import Found as Found
from .study import Kind as Kind
from .study import Measure as Measure
from .study import Method as Method
from .study import Plan as Plan
from .study import Requests as Requests
from .study import Rule as Rule
from .study import Setting as Setting
from .study import Study as Study
from .study import distance as distance
