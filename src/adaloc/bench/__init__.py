"""Benchmarks that ship with the package: `adaloc bench`."""
