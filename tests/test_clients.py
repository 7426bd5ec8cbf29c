"""benchmarks/clients.py: what it reads in the file of a client, and when it calls two runs equal. None is installed."""

import math
import subprocess
import sys

import pytest
import torch


@pytest.fixture
def clients(benchmarks):
    return benchmarks("clients")


def test_every_client_says_what_it_is_and_needs(clients):
    names = clients.all_clients()
    assert len(names) == len({clients.Client(name).row().what for name in names}) > 10
    for name in names:
        client = clients.Client(name)
        row = client.row()
        assert row.project, name
        assert row.what, name
        assert any("==" in requirement for requirement in client.requirements), name
        assert not any(requirement.startswith("torch==") for requirement in client.requirements), name


def test_tensors_differ_by_more_than_their_rounding(clients):
    wanted = [[torch.randn(50, 8, dtype=torch.float64), torch.zeros(8)], [torch.randn(3, dtype=torch.float64)]]
    nearly = [[tensor * (1 + clients.SHARE / 2) for tensor in group] for group in wanted]
    assert clients.difference(wanted, wanted, wanted) == 0
    assert clients.difference(nearly, wanted, wanted) == pytest.approx(0.5)
    further = [wanted[0], [wanted[1][0] * (1 + 3 * clients.SHARE)]]
    assert clients.difference(further, wanted, wanted) == pytest.approx(3)
    assert clients.difference(further, wanted, further) < 1  # torch.nn's own rounding is as large
    assert clients.difference(wanted[:1], wanted, wanted) == math.inf
    wanted[1][0][0] = math.nan
    assert clients.difference(wanted, nearly, nearly) == math.inf


def test_losses_differ_by_more_than_their_rounding(clients):
    wanted = [2.0, 1.0, 0.5]
    further = [2.0, 1.0, 0.5 * (1 + 3 * clients.RELATIVE)]
    assert clients.difference_of_losses(further, wanted, wanted) == pytest.approx(3, rel=1e-2)
    assert clients.difference_of_losses(further, wanted, [2.001, 1.0, 0.5]) < 1
    assert clients.difference_of_losses([math.nan, 1.0, 0.5], wanted, wanted) == math.inf
    assert clients.difference_of_losses(wanted[:2], wanted, wanted) == math.inf


def test_what_fails_with_torch_too_is_no_failure(clients):
    statuses = {
        clients.EQUAL: False,
        f"{clients.UNINSTALLABLE}: no such version": False,
        f"{clients.TORCHS_FAILURE}: ended after 900 s": False,
        "differs in outputs": True,
        "fails with fastrnn: KeyError": True,
        "fails with resets: KeyError": True,
    }
    for status, failed in statuses.items():
        assert clients.Row("name", "project", "what", status=status).failed is failed, status


def test_a_run_that_hangs_is_ended(clients):
    with pytest.raises(clients.UnfitError, match=r"ended after 0\.5 s"):
        clients.run([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
    with pytest.raises(clients.UnfitError) as told:
        clients.run([sys.executable, "-c", "raise SystemExit('first\\nlast\\n')"], 60)
    assert told.value.reason == "last"
    assert (
        clients.UnfitError("WARNING: old\nERROR: Cannot install it\nERROR: See elsewhere\n").reason
        == "Cannot install it"
    )


CLIENT = """
import torch
from adopted import main
def prepare(impl):
    layer = torch.nn.GRU(3, 4)
    impl.check(impl.convert(layer))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    def train():
        losses = []
        for _ in range(2):
            loss = layer(torch.ones(5, 2, 3))[0].sum()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses
    return train
main(prepare)
"""


@pytest.mark.thorough
def test_runs_are_recorded_up_to_the_first_step(clients, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{clients.ROOT}:{clients.FOLDER}")
    runs = {}
    for impl in ("torch", "fastrnn"):
        command = [sys.executable, "-c", CLIENT, "--impl", impl, "--threads", "1", "--record", tmp_path / impl]
        subprocess.run(command, check=True, capture_output=True)
        runs[impl] = torch.load(tmp_path / impl)
    ours, theirs = runs["fastrnn"], runs["torch"]
    assert ours["ways"] == theirs["ways"] == ["convert"]
    assert [[tensor.shape for tensor in group] for group in ours["outputs"]] == [[(5, 2, 4), (1, 2, 4)]]
    assert [len(group) for group in ours["gradients"]] == [4]
    for what in ("outputs", "gradients"):
        assert clients.difference(ours[what], theirs[what], theirs[what]) < 1
    assert clients.difference_of_losses(ours["losses"], theirs["losses"], theirs["losses"]) < 1
