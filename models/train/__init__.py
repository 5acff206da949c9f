"""Training of the networks that ship with weights; needs the extra `models`."""
