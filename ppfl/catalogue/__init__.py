"""Public data sets: what is published about them, how they come here, whether they are whole, and tiny ones alike."""
