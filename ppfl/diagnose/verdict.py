"""ρ = σ²(θ̂)/σ²(θ₀) with its uncertainty, and what it means for a split, in plain language."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ppfl.diagnose.measure import gap, group_of, mean_of_tested

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.diagnose.measure import Measurement

SAFE_BELOW = 0.1
"""ρ plus two standard errors at most this: the split counts as overpersonalized."""
UNSAFE_ABOVE = 0.3
"""ρ minus two standard errors at least this: it counts as not overpersonalized."""
MOST_LABELS = 6
"""Labels that are listed in a sentence or a cell."""


@dataclass(frozen=True)
class Ratio:
    """σ²(θ̂)/σ²(θ₀) of all shared parameters or of one group."""

    value: float
    standard_error: float
    """Over clients; 0 where everything is exact, NaN for a single client."""
    at_start: float
    """σ²(θ₀)."""
    at_end: float
    """σ²(θ̂)."""
    exact: bool = False
    """True when nothing is estimated."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found for one split."""

    shared: tuple[str, ...]
    """Groups of shared parameters; single parameters where a group is cut."""
    local: tuple[str, ...]
    """The same of local ones."""
    status: str
    """exact: evaluated at θ*; complete or diverged: at the θ̂ of a run with that end."""
    rounds: int
    """Rounds that led to θ̂; 0 for θ*."""
    rho: Ratio
    groups: dict[str, Ratio]
    common_share: float
    """‖F(θ̂)‖²/σ²(θ̂): the part of σ² that is the mean gradient, and that more rounds would remove."""
    train_loss: float
    test_loss: float
    test_accuracy: float
    gap: float
    """Test loss − train loss, in units of the loss (cross-entropy: nats)."""
    memorized_gap: float
    """How large it is where the training data was memorized."""


def diagnosis(
    names: tuple[tuple[str, ...], tuple[str, ...]], start: Measurement, end: Measurement, status: str, rounds: int
) -> Diagnosis:
    """Compare two measurements of one split; `names` are its shared and its local parameters."""
    exact = status == "exact"
    rho = ratio_of_means(end.client_squares, start.client_squares, exact)
    return Diagnosis(
        shared=_labels(*names),
        local=_labels(*reversed(names)),
        status=status,
        rounds=rounds,
        rho=rho,
        groups={group: ratio_of_means(end.squares[group], start.squares[group], exact) for group in end.squares},
        common_share=_quotient(end.common, rho.at_end),
        train_loss=float(end.scores["train_loss"].mean()),
        test_loss=mean_of_tested(end, "test_loss"),
        test_accuracy=mean_of_tested(end, "test_accuracy"),
        gap=gap(end),
        memorized_gap=end.memorized_gap,
    )


def ratio_of_means(numerators: np.ndarray, denominators: np.ndarray, exact: bool = False) -> Ratio:
    """ρ = ā/b̄ over M clients, standard error √(Σ_m (a_m − ρ b_m)² / (M(M − 1))) / b̄.

    Source: Cochran, Sampling Techniques, 3rd edition 1977, Section 6.4 (ratio estimate, large population).
    """
    num_clients = len(numerators)
    at_end, at_start = (float(values.sum()) / num_clients for values in (numerators, denominators))
    value = _quotient(at_end, at_start)
    if exact:
        return Ratio(value, 0.0, at_start, at_end, exact=True)
    residuals = numerators - value * denominators
    square = float((residuals**2).sum()) / (num_clients * (num_clients - 1)) if num_clients > 1 else math.nan
    return Ratio(value, _quotient(math.sqrt(square), at_start), at_start, at_end)


def verdict(found: Diagnosis) -> str:
    """Say in one sentence what to expect of this split."""
    sharing = f"sharing {listed(found.shared)}, keeping {listed(found.local)} local"
    if not found.shared:
        return f"{sharing}: no step, delay or attacker can do damage, and clients learn nothing from each other"
    if found.status == "diverged" or not math.isfinite(found.rho.value):
        return f"{sharing}: ρ is unknown, since training diverged or began where nothing pulls on θ; train otherwise"
    if found.rho.at_end == 0.0 and not found.rho.exact:
        return f"{sharing}: ρ is unknown, since no gradient reaches θ (are all units dead?); train otherwise"
    return f"{sharing}: ρ = {show_ratio(found.rho)}: {_expectation(found)}{_memorized(found)}"


def level(rho: Ratio) -> str:
    """Return safe, unsafe or between, by ρ ± two standard errors (none for one client); unknown without ρ.

    Estimated gradients that are exactly 0 say nothing: no gradient reaches θ, as when all units are dead.
    """
    if not math.isfinite(rho.value) or (rho.at_end == 0.0 and not rho.exact):
        return "unknown"
    margin = 0.0 if math.isnan(rho.standard_error) else 2.0 * rho.standard_error
    if rho.value + margin <= SAFE_BELOW:
        return "safe"
    return "unsafe" if rho.value - margin >= UNSAFE_ABOVE else "between"


def show_ratio(rho: Ratio) -> str:
    """Return `0.03 ± 0.01`: the error with one digit, ρ to the same place; exact ones with three digits."""
    if math.isnan(rho.standard_error):
        return f"{rho.value:.2g} (one client, no error)"
    if rho.exact:
        return f"{rho.value:.3g} (exact)"
    if rho.standard_error == 0.0:
        return f"{rho.value:.2g} ± 0"
    # the place of the first digit of the error: more digits of ρ would say what is not known
    place = math.floor(math.log10(rho.standard_error))
    if place < -4:
        return f"{rho.value:.2g} ± {rho.standard_error:.1g}"
    digits = max(-place, 0)
    return f"{rho.value:.{digits}f} ± {rho.standard_error:.{digits}f}"


def _expectation(found: Diagnosis) -> str:
    kind = level(found.rho)
    if kind == "safe":
        return "local steps, delays and robust aggregation should be safe"
    if kind == "unsafe":
        text = "not overpersonalized: local steps, delays and robust aggregation end at a floor; keep more local"
    else:
        text = "in between: local steps, delays and robust aggregation may end at a floor; compare with one local step"
    if found.common_share > 0.5:
        text += f" (but {min(found.common_share, 1.0):.0%} of σ² is the mean gradient: more rounds lower ρ)"
    return text


def _memorized(found: Diagnosis) -> str:
    # so written for NaN: where nothing is tested, nothing is said
    if not found.gap > found.memorized_gap:
        return ""
    losses = f"train loss {found.train_loss:.2g}, test loss {found.test_loss:.2g}"
    return f"; but the training data is memorized ({losses}), which also makes ρ small"


def _labels(names: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """Name whole groups, and single parameters of groups that are on both sides."""
    cut = {group_of(name) for name in others}
    return tuple(dict.fromkeys(name if group_of(name) in cut else group_of(name) for name in names))


def listed(labels: Sequence[str]) -> str:
    """Return the labels with commas; of many the first ones, since a ResNet has dozens."""
    if len(labels) > MOST_LABELS:
        return f"{', '.join(labels[: MOST_LABELS - 1])} and {len(labels) - MOST_LABELS + 1} more"
    return ", ".join(labels) or "nothing"


def _quotient(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else math.nan
