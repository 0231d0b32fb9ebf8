"""From molecules to camera frames: PSF, blinking, background, camera. Knows nothing of training."""
