"""`python -m ppfl`, and `mpiexec -n N python -m mpi4py -m ppfl`."""

from __future__ import annotations

from ppfl.cli import main

if __name__ == "__main__":
    main()
