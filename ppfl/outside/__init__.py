"""Plug-ins that do not come with the package: of a folder beside a configuration, of installed packages, of a notebook.

`files` reads a file and what it imports, `folder` a folder of them, `installed` entry points, `cells` classes that were
registered; `scope` puts them together and tells which of them a configuration uses.
"""
