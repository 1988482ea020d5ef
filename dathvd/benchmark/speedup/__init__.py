"""Speed-up over workers, codecs, exchanges and overlap: measured, then predicted."""
