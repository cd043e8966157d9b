"""The systems around the paper: what was claimed of each, what was found here, and how far apart the two are."""
