"""`cohort check`: what can be known before training."""
