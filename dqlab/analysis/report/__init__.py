"""The report of a grid: a page, tables, figures."""
