"""Intervals, tests and bounds that hold for records which come in clusters. No torch here."""
