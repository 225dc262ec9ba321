"""Verdicts: from figures to claims, a label and a ladder, by margins fixed beforehand."""
