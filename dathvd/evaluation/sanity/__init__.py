"""Whether robust accuracy is real: masked gradients and how they are found."""
