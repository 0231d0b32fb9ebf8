"""The network, its losses and the model file."""
