"""One campaign, from a prepared model to a finished run directory."""
