"""The pieces of the detector example: data, model, plain losses, evaluation, the picture."""
