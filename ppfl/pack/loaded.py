"""`ppfl.pack.cells`, loaded as it is to be in a process that others are forked from: out of the collector's sight.

While torch is loaded the collector would walk over ever more objects that stay, for a sixth of the time. So it would in
every child, again and again, and by doing so copy memory that children share.
"""

from __future__ import annotations

import gc

from ppfl.core.collector import without_collector

with without_collector():
    from ppfl.pack.cells import make_work as make_work

gc.freeze()
