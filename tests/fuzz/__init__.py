"""Fuzzing of every reader: targets, seeds, and the inputs that once did harm."""
