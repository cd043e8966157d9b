"""Attempts at runs, wherever they are computed: `find` them, ask them to `stop`, read what they `log`."""
