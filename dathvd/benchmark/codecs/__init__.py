"""What every codec costs in time, bytes and error, on one gradient."""
