"""Stochastic controlled averaging."""

from __future__ import annotations

from typing import Literal

from ppfl.algorithms._control_variates import ControlVariates


class Scaffold(ControlVariates):
    """θ_m ← θ_m − η (∇_1 f_B(θ_m, w_m) − c_m + c), H times from θ;  c_m ← c_m − c + (θ − θ_m)/(Hη), c the mean of c_m.

    Source: Karimireddy et al., ICML 2020, Algorithm 1 with option II for c_m; the published method when everything is
    shared. Local parameters, if there are any, take plain steps beside: w_m ← w_m − η ∇_2 f_B(θ_m, w_m).
    """

    name: Literal["scaffold"]
