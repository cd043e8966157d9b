"""MoTEF: nodes of a graph with compressed messages and momentum; and, new, with parameters of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.analysis.systems import _motef_local, _motef_quadratics, _motef_sorted
from ppfl.analysis.systems.study import Study

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ppfl.analysis.systems.runs import Run

QUADRATIC, NOISE, SORTED, A9A, LOCAL = (
    "motef-quadratic", "motef-noise", "motef-sorted", "motef-a9a", "motef-local",
)  # fmt: skip
CONFIGS = (QUADRATIC, NOISE, SORTED, A9A, LOCAL)


def study(runs: Mapping[str, Sequence[Run]]) -> Study:
    """Return what the runs on quadratics, on data sorted by label, and with a local output layer come to."""
    return Study(
        title="MoTEF: a graph in the place of a server",
        about="Nodes send compressed messages to their neighbours, each follows the mean of all gradients, and a "
        "momentum takes the noise out. Three tasks: the quadratics of the paper, with and without noise; logistic "
        "regression with a penalty that is not convex, sorted by label over a ring of 20; and, new, digits with the "
        "output layer local, where MoTEF works on θ alone, beside FFGG with a server. Baselines are DSGD, Choco-SGD, "
        "gradient tracking without compression, and BEER.",
        reconstructed="Nothing of the update, which the paper prints; M, V and G begin as the gradient at the start. "
        "The noise of gradients has E‖noise‖² = σ² with equal entries. Weights are those of Metropolis, where the "
        "paper has optimized ones. The split with fine-tuning is new.",
        claims=(
            *_motef_quadratics.claims_of_heterogeneity(runs[QUADRATIC]),
            *_motef_quadratics.claims_of_noise(runs[NOISE]),
            *_motef_sorted.claims_of_breast_cancer(runs[SORTED]),
            *_motef_sorted.claims_of_a9a(runs[A9A]),
            *_motef_local.claims(runs[LOCAL]),
        ),
        figures=(
            *_motef_quadratics.pictures(runs[QUADRATIC], runs[NOISE]),
            *_motef_sorted.pictures(runs[SORTED], runs[A9A]),
            *_motef_local.pictures(runs[LOCAL]),
        ),
        reading="What stops DSGD and Choco-SGD is that nodes differ: with one step for all, each is pulled to its own "
        "optimum, and compression makes it worse. Trackers do not know that floor. With noisy gradients all have one, "
        "which the momentum lowers. γ and λ were chosen by the very number that is shown, of MoTEF among more values "
        "than of others, and bits count what is sent to one neighbour. With the γ = 0.5 that looked best on one seed "
        "nodes come apart on another: compressed averaging by itself is not stable there, and x̄, the only thing "
        "that was looked at, does not show it soon; look at `consensus`. With a local output layer one has to see what "
        "a byte buys: a round of MoTEF on a ring costs about a quarter of a round of FFGG with a server, since nothing "
        "is sent down whole, and so a node computes about four times as many gradients for the same bytes, with "
        "Choco-SGD, which sends one message and not two, seven times as many. Where images are dealt alike that is "
        "worth more than tracking. With three classes a node Choco-SGD is ahead in the median of the seeds, too, but "
        "one of them stays at ten times MoTEF's, whose seeds lie close together. Counted in rounds, no graph is ahead "
        "of a server.",
    )  # fmt: skip
