"""From finished runs to statistics, a report, a comparison; without gin and without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dqlab import lazy_names

if TYPE_CHECKING:
    from dqlab.analysis.compare import run_compare
    from dqlab.analysis.report.write import write_report
    from dqlab.analysis.statistics import analyse

__all__ = ["analyse", "run_compare", "write_report"]
# statistics need scipy, reports rich
__getattr__ = lazy_names(__name__, {"analyse": "statistics", "write_report": "report.write", "run_compare": "compare"})
