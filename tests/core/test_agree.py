"""An error that one rank meets ends all of them, with one message."""

from __future__ import annotations

import pytest

from ppfl.core.agree import SharedUserError, on_every_rank, on_first_rank, on_one_rank
from ppfl.core.errors import UserError
from tests.ranks import on_ranks


@pytest.mark.parametrize("failing", [(0,), (1,), (1, 2)])
def test_every_rank_raises_the_first_message(failing: tuple[int, ...]) -> None:
    messages: list[str] = []

    def work(communicator) -> None:  # type: ignore[no-untyped-def]
        def action() -> int:
            if communicator.rank in failing:
                raise UserError(f"rank {communicator.rank}: schlüssel\nfehlt")
            return communicator.rank

        try:
            on_every_rank(communicator, action)
        except SharedUserError as error:
            messages.append(str(error))

    on_ranks(3, work)
    assert messages == [f"rank {failing[0]}: schlüssel fehlt"] * 3


def test_whoever_met_the_error_knows_which_it_was() -> None:
    causes: dict[int, BaseException | None] = {}
    met = UserError("of rank 1")

    def work(communicator) -> None:  # type: ignore[no-untyped-def]
        def action() -> None:
            if communicator.rank == 1:
                raise met

        try:
            on_every_rank(communicator, action)
        except SharedUserError as error:
            causes[communicator.rank] = error.__cause__

    on_ranks(2, work)
    assert causes == {0: None, 1: met}


def test_values_come_back_where_they_were_made() -> None:
    assert on_ranks(3, lambda c: on_every_rank(c, lambda: c.rank)) == [0, 1, 2]


def test_first_rank_decides_for_all() -> None:
    assert on_ranks(3, lambda c: on_first_rank(c, lambda: "already done")) == ["already done"] * 3


def test_one_rank_speaks_for_all() -> None:
    assert on_ranks(3, lambda c: on_one_rank(c, c.rank == 1, lambda: f"of {c.rank}")) == ["of 1"] * 3


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        on_ranks(1, lambda c: on_every_rank(c, lambda: 1 // 0))
