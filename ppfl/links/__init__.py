"""Plug-ins: what the network between clients and server is like."""
