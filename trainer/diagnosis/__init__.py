"""Why a run cannot learn: what it has seen, what that is evidence of, and how to say it."""
