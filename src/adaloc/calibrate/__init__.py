"""The PSF of a microscope from stacks of beads: finding, cutting, fitting, and showing the fit."""
