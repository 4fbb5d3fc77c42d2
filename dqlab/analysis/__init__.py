"""From finished runs to statistics, a report, a comparison; neither gin nor torch."""
