"""What a group can teach: from scored groups to lessons, and which prompts to ask next."""
