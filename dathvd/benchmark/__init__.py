"""Measurements: local speed, speed-up over workers, codecs, and a rig of slow links."""
