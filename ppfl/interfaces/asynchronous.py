"""The section `asynchronous:`: how uplinks are applied as they arrive, and with which steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from ppfl.core.data_file import DataFile
from ppfl.core.plugins import PlugIn, Settings, discover, refusal
from ppfl.interfaces.byzantine import adds_up
from ppfl.interfaces.method import Algorithm

if TYPE_CHECKING:
    from ppfl.interfaces.aggregator import Aggregator
    from ppfl.interfaces.byzantine import Byzantine
    from ppfl.interfaces.compute_times import ComputeTimes
    from ppfl.interfaces.network import Network


class Asynchronous(Settings):
    """θ ← θ − γ s(d) · mean of Q uplinks, as they arrive; γ the algorithm's lr, d the delay of an uplink.

    Source: Mishchenko et al., TMLR 2025, Asynchronous FFGG. Buffered arrivals: Nguyen et al., AISTATS 2022 (FedBuff).
    """

    engine: Literal["virtual", "messages"]
    """Who decides what arrives when: a virtual clock, or real messages between ranks."""
    concurrency: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    """J, clients at work at any time; when fewer than all, the next one is drawn from those that are idle."""
    step: Literal["constant", "delay_adaptive"] = "constant"
    """s(d): min(1, Q/J), or 1/max(d, 1)."""
    max_staleness: Annotated[int, Field(ge=0)] | None = None
    """Largest delay that is applied; uplinks with a larger one are dropped. null applies all."""
    buffer: Annotated[int, Field(ge=1)] = 1
    """Q, arrivals whose mean makes one step of the server. With another aggregator than the mean, or attackers on
    vectors, clients whose latest uplinks do: then at least 2f + 1."""
    replay: DataFile | None = None
    """A result whose arrivals are repeated in their order, instead of an order made by compute times."""

    @model_validator(mode="after")
    def _replayed_by_the_clock(self) -> Asynchronous:
        if self.replay is not None and self.engine != "virtual":
            raise refusal("engine", "'virtual', which is what repeats the arrivals of `replay`")
        return self

    def step_factor(self, num_in_flight: int, delay: int) -> float:
        """Return s(d); with a buffer d is the largest delay in it.

        J gradients are under way at any time, so that each is about J/Q steps old when it is applied. A delay of τ
        steps is stable when γ s λ τ stays below about π/2: s = Q/J, or s = 1/d, and not s = min(1, J/d), which is 1
        whenever all are alike (d = J − 1).

        >>> from ppfl.interfaces.asynchronous import Asynchronous
        >>> Asynchronous(engine="virtual", concurrency=10, buffer=4).step_factor(num_in_flight=10, delay=3)
        0.4
        >>> Asynchronous(engine="virtual", step="delay_adaptive").step_factor(num_in_flight=10, delay=4)
        0.25
        """
        if self.step == "constant":
            return min(1.0, self.buffer / num_in_flight)
        return 1.0 / max(delay, 1)

    def num_steps(self, num_arrivals: int) -> int:
        """Return the steps of the server that so many arrivals begin, when none is dropped or replaced."""
        return -(-num_arrivals // self.buffer)

    def refuse_method(self, algorithm: Algorithm, weights: str, cohort: object) -> None:
        """Raise pydantic's error for what cannot be applied one uplink at a time."""
        if algorithm.needs_rounds:
            methods = [name for name, kind in discover("ppfl.algorithms").items() if not _needs_rounds(kind)]
            reason = f"{algorithm.name!r} cannot run asynchronously, since {algorithm.needs_rounds}"
            raise refusal("algorithm.name", f"{', '.join(methods)}; {reason}")
        if weights != "uniform":
            raise refusal("weights", "'uniform': every arrival counts the same")
        if cohort != "all":
            raise refusal("cohort", "'all': how many clients work at a time is asynchronous.concurrency")

    def refuse_buffer(self, aggregator: Aggregator, byzantine: Byzantine | None) -> None:
        """Raise pydantic's error for a buffer of fewer than 2f + 1 where the server looks at each uplink.

        f is the largest of what the rule and what comes before it are to stand, of the number of attackers, and of 1: a
        client is in a buffer once. Attackers beside the clients are in every buffer, in addition to Q.
        """
        if adds_up(aggregator, byzantine):
            return
        of_rule = max(getattr(step, "f", 0) for step in (aggregator, *aggregator.before))
        attackers, beside = (byzantine.num_attackers, byzantine.num_beside) if byzantine is not None else (0, 0)
        # 1, although nobody may attack: of two vectors no rule can tell which one to believe
        f = max(of_rule, attackers, 1)
        least = 2 * f + 1 - beside
        if self.buffer < least:
            whose = "of the rule" if f == of_rule else "for the attackers" if f == attackers else "at least"
            more = f", {beside} of them beside the buffer" if beside else ""
            reason = (
                f"2f + 1 vectors{more}, f = {f} {whose}: a rule, and attackers on vectors, look at each of a buffer"
            )
            raise refusal("asynchronous.buffer", f"at least {least}, {reason}")

    def refuse_times(self, compute_times: ComputeTimes | None, network: Network | None) -> None:
        """Raise pydantic's error for a virtual clock without compute times, and for times that nothing would use."""
        if self.engine == "messages" and compute_times is not None:
            raise refusal("compute_times", "nothing with asynchronous.engine 'messages', where time is real")
        if self.replay is not None and compute_times is not None:
            raise refusal("compute_times", "nothing with asynchronous.replay, whose log has the times")
        if self.engine == "virtual" and self.replay is None and compute_times is None and network is None:
            raise refusal(
                "compute_times", "a section, such as {name: fixed}, from which the virtual clock has its times"
            )

    def refuse_chunks(self, clients_per_chunk: int | None) -> None:
        """Raise pydantic's error for clients that would be computed together."""
        if clients_per_chunk not in (None, 1):
            raise refusal("engine.clients_per_chunk", "1 or null: asynchronous clients are computed one by one")


def _needs_rounds(kind: type[PlugIn]) -> bool:
    assert issubclass(kind, Algorithm)
    return bool(kind.needs_rounds)
