"""Many runs in one process group: `scheduler` hands tasks to child processes, `cells` runs one cell in such a child,
`command` puts both together for `ppfl pack`."""
