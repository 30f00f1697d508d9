"""What was learned, measured on frozen features: arrays in, numbers out. Nothing here knows a method."""
