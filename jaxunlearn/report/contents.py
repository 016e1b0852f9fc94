"""What a report says beside its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxunlearn.report.definitions import METRICS, Metric
from jaxunlearn.report.equivalence import Trial
from jaxunlearn.report.tables import Comparison


class Contents(NamedTuple):
  """The words of a report, and how its numbers are judged.

  Attributes:
    title: heading of the tables and of the report.
    lead: what was done and why, in plain words.
    notes: further remarks for the report.
    comparisons: further tables, such as `salun_table`.
    general_findings: whether the sentences of `findings` are there, which hold
      unlearning methods against the retrained model.
    more_findings: sentences after those of `findings`.
    verdicts: sentences before them; see `judge`.
    definitions: how to show and explain each metric.
    trial: by which tests methods are judged; the answer comes first then, the
      sentences and tables of the tests are added, and `general_findings`, which
      call near what is not shown to differ, are left out.
    provenance: "command", date, hashes and the like, for the report.
    unanswered: why it cannot be said whether rows are deleted, where no test
      looked for traces of them; "" leaves the question out.
  """

  title: str
  lead: str
  notes: Sequence[str] = ()
  comparisons: Sequence[Comparison] = ()
  general_findings: bool = True
  more_findings: Sequence[str] = ()
  verdicts: Sequence[str] = ()
  definitions: Sequence[Metric] = METRICS
  trial: Trial | None = None
  provenance: Mapping[str, str] | None = None
  unanswered: str = ""
