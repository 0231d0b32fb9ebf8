"""Localizations against ground truth."""
