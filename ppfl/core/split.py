"""Which parameters are local: globs over parameter names, validated against the names that the model has."""

from __future__ import annotations

from fnmatch import fnmatchcase

from pydantic import Field

from ppfl.core.plugins import Settings

EVERYTHING = "*"


class Split(Settings):
    """Parameters split into shared θ and local w_m (paper, Section 1): a name is local when a pattern matches it."""

    local: tuple[str, ...] = Field(strict=False)
    """Globs over parameter names, e.g. ["head.*"]; [] shares everything, ["*"] keeps everything local."""

    def local_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names that are local, in the order of `names`.

        Raises ValueError when a pattern matches nothing, or when patterns other than "*" leave nothing to share.
        """
        for pattern in self.local:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"{pattern!r} matches no parameter; the parameters are {', '.join(names)}")
        chosen = tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in self.local))
        if len(chosen) == len(names) and EVERYTHING not in self.local:
            raise ValueError(
                f"{list(self.local)} leaves nothing to share; write ['*'] if every parameter is to be local"
            )
        return chosen
