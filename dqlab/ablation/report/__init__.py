"""The report of a grid: a page, figures, tables and data, from its results and nothing else."""

from dqlab.ablation.report.writing import write_report

__all__ = ["write_report"]
