"""Which clients are held out, and how the others are dealt to ranks as if there were no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.agree import SharedUserError
from ppfl.core.rng import generator
from ppfl.interfaces.held_out import HeldOut
from ppfl.interfaces.placement import ChunkMemory, Placement
from tests.ranks import ThreadCommunicator, on_ranks

NAMES = tuple(f"c{number:02d}" for number in range(20))
SIZES = tuple(0 if number in (3, 11) else 5 + 7 * number % 13 for number in range(20))


@pytest.mark.parametrize(
    ("fraction", "number"), [(0.2, 4), (0.25, 4), (0.01, 1), (0.94, 17)], ids=lambda value: str(value)
)
def test_a_fraction_is_of_clients_with_training_samples(fraction: float, number: int) -> None:
    drawn = [HeldOut(fraction, seed).members(NAMES, SIZES).tolist() for seed in range(30)]
    for members in drawn:
        assert members == sorted(set(members))
        assert len(members) == number
        assert not {3, 11} & set(members)
    assert drawn[7] == HeldOut(fraction, 7).members(NAMES, np.array(SIZES)).tolist()
    # of numbers that nothing else is drawn with: results keep who it was
    of_its_own = generator(7, "newcomers").choice(np.flatnonzero(SIZES), number, replace=False)
    assert drawn[7] == sorted(of_its_own.tolist())
    if number > 1:
        assert len({tuple(members) for members in drawn}) > 1
    # everybody who could be drawn is, by some seed
    everyone = {member for seed in range(300) for member in HeldOut(fraction, seed).members(NAMES, SIZES).tolist()}
    assert everyone == set(range(20)) - {3, 11}


def test_names_may_be_of_clients_without_training_samples() -> None:
    assert HeldOut(("c11", "c02"), 0).members(NAMES, SIZES).tolist() == [2, 11]


@pytest.mark.parametrize(
    ("clients", "wanted"),
    [
        (("c02", "nobody", "no one"), "no client is called nobody, no one; they are c00, c01, .*… \\(20\\)"),
        (0.98, "0.98 of 18 clients with training samples leaves none to train; allowed: a smaller fraction"),
        (tuple(set(NAMES) - {"c03", "c11"}), "leaves no client with training samples; allowed: fewer of them"),
    ],
    ids=["unknown", "all by a fraction", "all by name"],
)
def test_what_cannot_be_held_out(clients: float | tuple[str, ...], wanted: str) -> None:
    with pytest.raises(SharedUserError, match=f"^evaluate.newcomers.clients: {wanted}$"):
        HeldOut(clients, 0).members(NAMES, SIZES)


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize(
    "clients", [0.3, ("c00", "c01", "c19"), tuple(NAMES[1:])], ids=["drawn", "ends", "all but one"]
)
def test_the_others_are_dealt_as_if_there_were_no_more(clients: float | tuple[str, ...], chunk: int) -> None:
    held_out = HeldOut(clients, 1)
    trained = np.setdiff1d(np.arange(20), held_out.members(NAMES, SIZES))
    sizes, names = np.array(SIZES)[trained], [NAMES[client] for client in trained]

    def deal(communicator: ThreadCommunicator) -> tuple[range, range]:
        plain = Placement(communicator, 0, 0, torch.float64, torch.device("cpu"))
        of_others = plain.deal(names, sizes, chunk, (2,))
        dealt = replace(plain, held_out=held_out).deal(NAMES, SIZES, chunk, (2,))
        assert dealt.clients_per_chunk == of_others.clients_per_chunk == chunk
        return dealt.clients, of_others.clients

    found = on_ranks(3, deal)
    assert [client for mine, _ in found for client in mine] == list(range(20))
    for mine, of_others in found:
        assert [client for client in trained if client in mine] == trained[of_others.start : of_others.stop].tolist()


def test_chunks_are_as_large_as_those_that_train_allow() -> None:
    """However many samples somebody has who is held out."""
    placement = Placement(
        SoloCommunicator(), 0, 0, torch.float64, torch.device("cpu"), held_out=HeldOut(("d",), 0),
        chunk_memory=ChunkMemory(40), bytes_of_client=lambda _shape, samples, _vocabulary: samples,
    )  # fmt: skip
    assert placement.deal(tuple("abcde"), (4, 20, 4, 40, 4), None, (2,)).clients_per_chunk == 2
