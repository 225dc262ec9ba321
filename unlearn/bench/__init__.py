"""Comparisons: every strategy on the same records, measured by the auditor's own probes."""
