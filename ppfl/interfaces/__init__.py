"""What plug-ins implement, and what several of them share."""
