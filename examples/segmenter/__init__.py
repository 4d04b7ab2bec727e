"""The pieces of the segmentation example: data, model, plain losses, evaluation, pictures."""
