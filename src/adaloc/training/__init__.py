"""Controller, schedules, checkpoints, the run log and the training loop."""
