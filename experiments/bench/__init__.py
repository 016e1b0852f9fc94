"""The frame that every study runs in.

`study` says what a study is made of and how to write one; what it needs is here.
"""

from experiments.bench import table as table
from experiments.bench.options import CommonOptions as CommonOptions
from experiments.bench.study import AGAIN as AGAIN
from experiments.bench.study import ORIGINAL as ORIGINAL
from experiments.bench.study import REFERENCES as REFERENCES
from experiments.bench.study import REPORT as REPORT
from experiments.bench.study import RETRAINED as RETRAINED
from experiments.bench.study import SELECT as SELECT
from experiments.bench.study import Bed as Bed
from experiments.bench.study import Beds as Beds
from experiments.bench.study import Case as Case
from experiments.bench.study import Evidence as Evidence
from experiments.bench.study import Found as Found
from experiments.bench.study import Kind as Kind
from experiments.bench.study import Measure as Measure
from experiments.bench.study import Method as Method
from experiments.bench.study import Plan as Plan
from experiments.bench.study import Requests as Requests
from experiments.bench.study import Rule as Rule
from experiments.bench.study import Setting as Setting
from experiments.bench.study import Study as Study
from experiments.bench.study import distance as distance
