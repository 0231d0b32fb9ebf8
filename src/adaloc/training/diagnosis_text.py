"""Stub of words, filled next."""

from adaloc.training.causes import Finding


def describe(finding: Finding) -> str:
    """Words."""
    return finding.cause
