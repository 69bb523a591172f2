"""`cohort report`: run folders to one HTML page."""
