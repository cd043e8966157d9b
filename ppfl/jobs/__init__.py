"""Who works on which result: claims, attempts, signals, launchers; processes and files, no numbers."""
