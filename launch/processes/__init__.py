"""The processes of a run, over Ray: where they are, how they are started, asked and waited for."""
