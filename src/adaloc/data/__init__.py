"""Sample folders on disk, windows of frames, and training targets."""
