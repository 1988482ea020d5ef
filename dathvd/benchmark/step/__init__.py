"""How fast one device takes adversarial training steps."""
