"""Two of torchrun's agents, as two machines would run them: training, checkpoints, and a worker that is killed.

Everything goes by the loopback interface; the one port that is agreed on beforehand was free a moment ago.
"""

import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import distributed_worker as ranks
import pytest
import several_machines_worker as worker
import torch
import torch.distributed as dist
from test_readme_commands import commands

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not dist.is_available(), reason="this torch was built without torch.distributed"),
]

SECONDS = 300  # some 15 suffice; a deadlock must not hold up the suite


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun(port, restarts):
    """The command of docs/several_machines.md up to its script, for a machine that plays both, and its environment."""
    (line,) = (line for line in commands(worker.ROOT / "docs" / "several_machines.md") if "--nnodes" in line)
    words = shlex.split(line)
    program, script = (next(i for i, word in enumerate(words) if word.endswith(end)) for end in ("torchrun", ".py"))
    variables, options = words[:program], words[program + 1 : script]
    here = {"--rdzv-endpoint": f"127.0.0.1:{port}", "--max-restarts": str(restarts)}
    for name, value in here.items():
        options[options.index(name) + 1] = value
    command = [sys.executable, "-m", "torch.distributed.run", *options, "--local-addr", "127.0.0.1"]
    return command, dict(variable.split("=") for variable in variables)


def run_agents(folder, part, restarts=0):
    """What the two agents and their workers said, when both have ended well."""
    command, variables = torchrun(free_port(), restarts)
    command += [str(Path(worker.__file__)), part, str(folder)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | variables
    logs = [folder / f"agent{number}.log" for number in range(2)]
    agents = []
    try:
        for log in logs:
            with log.open("w") as file:
                agents.append(subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT))
        deadline = time.monotonic() + SECONDS
        for agent in agents:
            agent.wait(max(1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pytest.fail(f"the agents did not end within {SECONDS} seconds\n{said(logs)}")
    finally:
        for agent in agents:
            stop(agent)
    assert [agent.returncode for agent in agents] == [0, 0], said(logs)
    return said(logs)


def stop(agent):
    """An agent that is asked to stop ends its workers; nothing if it is done."""
    agent.terminate()
    try:
        agent.wait(60)
    except subprocess.TimeoutExpired:
        agent.kill()


def said(logs):
    return "\n".join(f"{log.name}:\n{log.read_text()}" for log in logs)


# Training and checkpoints


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrapped")
    run_agents(folder, "wrap_and_save")
    return folder


@pytest.fixture(scope="module")
def alone():
    """What one process's training comes to at each part's end."""
    model = ranks.make(worker.LAYER)
    optimizer = worker.momentum(model)
    return [ranks.train(model, slice(None), optimizer=optimizer) for _ in range(2)]


@pytest.mark.parametrize("wrap", ("replicate", "shard"))
def test_two_machines_train_as_one_process(wrapped, alone, wrap):
    """The same gradients and weights, hence the same loss."""
    size = sum(p.numel() for p in ranks.make(worker.LAYER).parameters())
    for rank in range(ranks.WORLD):
        results, held = torch.load(wrapped / f"{wrap}-{rank}.pt")
        assert held == size if wrap == "replicate" else held < 0.7 * size
        for ours, theirs in zip(results, alone, strict=True):
            ranks.assert_same(ours, theirs)


@pytest.mark.parametrize("wrap", ("replicate", "shard"))
def test_one_process_goes_on_from_their_checkpoint(wrapped, alone, wrap):
    torch.manual_seed(0)  # other weights than make's
    model = ranks.Model(worker.LAYER).double()
    optimizer = worker.momentum(model)
    worker.page()["load"](model, optimizer, wrapped / wrap)
    ranks.assert_same([dict(model.named_parameters())], [alone[0][1]])
    ranks.assert_same(ranks.train(model, slice(None), optimizer=optimizer), alone[1])


# A worker that is killed


def losses_in(folder):
    """Those of every step of char_ddp.py's run, from the one checkpoint that is left."""
    import torch.distributed.checkpoint as dcp

    (metadata,) = folder.glob("*/*/.metadata")
    assert [path.name for path in metadata.parents[1].iterdir()] == [str(worker.STEPS)]
    state = {"losses": []}
    dcp.load(state, checkpoint_id=metadata.parent)
    return state["losses"]


def test_killed_worker(tmp_path):
    """Both are started anew, go on from the last whole checkpoint, and reach the undisturbed run's loss."""
    pytest.importorskip("tqdm", reason="make examples installs tqdm")
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    disturbed.mkdir()
    undisturbed.mkdir()
    output = run_agents(disturbed, "killed_example", restarts=1)
    assert output.count(f"going on after step {worker.SAVE_EVERY}\n") == 1, output
    assert "reached: at most" in output
    assert "going on" not in run_agents(undisturbed, "example")
    losses = losses_in(disturbed)
    assert len(losses) == worker.STEPS
    assert losses == pytest.approx(losses_in(undisturbed), rel=1e-5)
    assert losses[-1] < losses[0]
