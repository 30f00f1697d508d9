"""Training on top of a trained encoder, through its views and on the devices: a linear head with the encoder frozen, or the whole network."""
