"""Calls far longer, wider and larger than usual, calls that run out of memory, and calls that Ctrl-C ends.

What could end or slow the whole suite runs in a process of its own.
"""

import subprocess
import sys
import textwrap

import pytest
import torch
from cases import LAYERS

import fastrnn

pytestmark = pytest.mark.thorough

by_layer = pytest.mark.parametrize("layer", LAYERS)


def run_script(script, *args, timeout=60):
    """Run Python in a new process; what it printed. Its asserts, and a hang, fail the test."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def in_chunks(module, value, size):
    """The call in parts, each starting from the states in which the last ended."""
    outputs, states = [], None
    for part in value.split(size):
        output, states = module(part, states)
        outputs.append(output)
    return torch.cat(outputs), states


def as_tuple(states):
    return states if isinstance(states, tuple) else (states,)


@by_layer
def test_a_million_steps(layer):
    """Outputs, states and gradients of T = 1e6 are those of eight calls of an eighth each."""
    module = getattr(fastrnn, layer)(3, 4, dtype=torch.float64)
    value = torch.randn(1_000_000, 1, 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(1_000_000, 1, 4, dtype=torch.float64)
    results = []
    for run in (module, lambda value: in_chunks(module, value, 125_000)):
        output, states = run(value)
        loss = (output * upstream).sum() + sum(state.sum() for state in as_tuple(states))
        results.append([output.detach(), *as_tuple(states), *torch.autograd.grad(loss, [value, *module.parameters()])])
    for whole, chunked in zip(*results, strict=True):
        # Weight gradients are sums of a million terms, as large as a thousand for want of a sign.
        torch.testing.assert_close(whole, chunked, rtol=1e-9, atol=1e-8)


def test_memory_of_a_million_steps():
    """Memory in proportion to what is kept, some 60 values a step, and no second copy of everything."""
    grown = run_script(
        """
        import resource, torch, fastrnn

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

        module = fastrnn.LSTM(4, 4)
        module(torch.randn(10, 1, 4))[0].sum().backward()
        before = peak()
        output, _ = module(torch.randn(1_000_000, 1, 4))
        output.sum().backward()
        print(peak() - before)
        """
    )
    values_a_step = int(grown) / 4 / 1_000_000
    assert values_a_step < 80, f"{values_a_step:.0f} values a step"


@by_layer
def test_wide_batch_and_deep_stack(layer):
    """Batch rows do not know of each other, and a layer does not know how many are below it."""
    module = getattr(fastrnn, layer)(2, 3)
    value = torch.randn(2, 100_000, 2)
    output, states = module(value)
    part, part_states = module(value[:, -7:])
    torch.testing.assert_close(output[:, -7:], part)
    for state, part_state in zip(as_tuple(states), as_tuple(part_states), strict=True):
        torch.testing.assert_close(state[:, -7:], part_state)

    theirs, ours = (getattr(space, layer)(2, 2, 200, dtype=torch.float64) for space in (torch.nn, fastrnn))
    ours.load_state_dict(theirs.state_dict())
    for module in (theirs, ours):
        module(value[:, :2].double())[0].sum().backward()
    for expected, actual in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad)


GIB = 2**30

# The layer, whether gradients are wanted, H, and which tensor then passes 2**31 elements (8 GiB).
HUGE = {
    "LSTM gates": ("LSTM", False, 64, 4),
    "LSTM reserve": ("LSTM", "kept", 64, 4),
    "GRU gates": ("GRU", False, 64, 3),
    "RNN backward": ("RNN", True, 256, 1),
}


@pytest.mark.long
@pytest.mark.parametrize("what", HUGE)
def test_past_two_to_the_31_elements(what):
    """Offsets past 2**31 elements. Up to 19 GiB of memory, a minute each.

    Rows of a batch are independent, so the last steps of the last rows, run by themselves from the states before, say
    what the end of everything must be.
    """
    run_script(
        """
        import sys, torch, fastrnn

        layer, mode, hidden, gates = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        batch = 1024
        steps = (2**31 + 2**24) // (gates * hidden * batch)
        assert steps * batch * gates * hidden > 2**31
        torch.manual_seed(0)
        module = getattr(fastrnn, layer)(1, hidden)
        value = torch.randn(steps, batch, 1, requires_grad=mode == "True")
        last = 300  # steps after which a state of zeros at their beginning is forgotten
        tail = value[-last:, -3:].detach().clone().requires_grad_(mode == "True")
        with torch.set_grad_enabled(mode != "False"):
            output, states = module(value)
            end, end_states = module(tail)
        close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        close(output[-20:, -3:], end[-20:])
        pairs = zip(states, end_states) if isinstance(states, tuple) else ((states, end_states),)
        for state, end_state in pairs:
            close(state[:, -3:], end_state)
        if mode == "True":
            # Through the final state alone: a gradient of output would be another 8 GiB.
            del output
            expected, = torch.autograd.grad(end_states.sum(), tail)
            actual, *weights = torch.autograd.grad(states.sum(), [value, *module.parameters()])
            assert expected[-20:].abs().max() > 1e-4
            close(actual[-20:, -3:], expected[-20:])
            # Only the last steps matter to the final state, in every row.
            recent = value[-last:].detach()
            close_enough = torch.autograd.grad(module(recent)[1].sum(), list(module.parameters()))
            for weight, other in zip(weights, close_enough):
                torch.testing.assert_close(weight, other, rtol=1e-2, atol=1e-3)
        """,
        *HUGE[what],
        timeout=600,
    )


@by_layer
def test_out_of_memory(layer):
    """torch's RuntimeError, which says what is missing, forward and backward; and the next call is right."""
    run_script(
        """
        import resource, sys, torch, fastrnn

        torch.set_num_threads(2)
        module = getattr(fastrnn, sys.argv[1])(64, 64)
        small = torch.randn(5, 3, 64)
        grads = lambda: torch.autograd.grad(module(small)[0].sum(), list(module.parameters()))
        expected = grads()

        def limit(room):
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))

        # 64 MB each: too much for memory freed before to serve again.
        value = torch.randn(4000, 64, 64, requires_grad=True)
        loss = module(value)[0].sum()
        for call in (lambda: module(value), lambda: loss.backward(retain_graph=True)):
            limit(room=48 << 20)
            for _ in range(3):
                try:
                    call()
                    sys.exit("it fitted")
                except RuntimeError as error:
                    assert "memory" in str(error), error
            assert all(map(torch.equal, grads(), expected)), "another result after running out of memory"
            limit(room=4 << 30)
            call()
        """,
        layer,
    )


# A call of seconds, whose arguments say how the work is shared out.
INTERRUPTED = """
    import os, signal, sys, threading, time, torch, fastrnn

    layer, layers, bidirectional, threads, backward, batch, hidden, steps = sys.argv[1], *map(int, sys.argv[2:9])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script started in the background
    torch.set_num_threads(threads)
    module = getattr(fastrnn, layer)(8, hidden, layers, bidirectional=bool(bidirectional))
    small = torch.randn(5, 3, 8)
    expected = module(small)[0]
    value = torch.randn(steps, batch, 8)
    assert fastrnn.explain(module, value).rows[0].threads == (1 if bidirectional or layers > 1 else threads)
    sent = []

    def interrupt():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    # A gradient of the last step only, so that backward is all time loop.
    loss = module(value)[0][-1].sum() if backward else None
    timer = threading.Timer(0.2, interrupt)
    timer.start()
    try:
        with torch.set_grad_enabled(bool(backward)):
            loss.backward() if backward else module(value)
        sys.exit(f"ended by itself; signal sent: {bool(sent)}")
    except KeyboardInterrupt as error:
        waited = time.monotonic() - sent[0]
        assert type(error) is KeyboardInterrupt
    assert waited < 1, f"{waited:.2f} s from Ctrl-C to KeyboardInterrupt"
    assert torch.equal(module(small)[0], expected), "another result after Ctrl-C"
    module(small)[0].sum().backward()
    timer.join()
"""


# Steps that forward and backward make into a call of two or three seconds, at B = 1 and H = 1024.
LONG_CALLS = {"LSTM": (6000, 3000), "GRU": (8000, 4000), "RNN": (24000, 12000)}


@pytest.mark.parametrize(("layer", "threads_used"), (("LSTM", 1), ("LSTM", 2), ("GRU", 2), ("RNN", 1)))
@pytest.mark.parametrize("backward", (False, True), ids=("forward", "backward"))
def test_control_c(layer, threads_used, backward):
    """KeyboardInterrupt within a second of the signal, in the middle of the time loop."""
    run_script(INTERRUPTED, layer, 1, 0, threads_used, int(backward), 1, 1024, LONG_CALLS[layer][backward])


@pytest.mark.parametrize("backward", (False, True), ids=("forward", "backward"))
def test_control_c_while_threads_run_their_own_rows(backward):
    run_script(INTERRUPTED, "LSTM", 1, 0, 2, int(backward), 32, 240, 3000 if backward else 6000)


@pytest.mark.parametrize("backward", (False, True), ids=("forward", "backward"))
def test_control_c_while_threads_run_their_own_direction(backward):
    run_script(INTERRUPTED, "LSTM", 1, 1, 2, int(backward), 1, 240, 30_000 if backward else 60_000)


@pytest.mark.parametrize("backward", (False, True), ids=("forward", "backward"))
def test_control_c_in_a_wavefront(backward):
    run_script(INTERRUPTED, "LSTM", 2, 0, 2, int(backward), 1, 80, 300_000 if backward else 600_000)


def test_signals_that_end_nothing_and_signals_that_raise():
    """A handler that returns lets the call go on to the right result; what a handler raises is what the call raises."""
    run_script(
        """
        import os, signal, threading, torch, fastrnn

        torch.set_num_threads(2)
        module, value = fastrnn.LSTM(8, 512), torch.randn(3000, 1, 8)
        expected = module(value)[0]
        seen = []
        signal.signal(signal.SIGUSR1, lambda *args: seen.append(args))

        def after(seconds, number):
            timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), number))
            timer.start()
            return timer

        for wait in (0.02, 0.04, 0.06):
            timer = after(wait, signal.SIGUSR1)
            assert torch.equal(module(value)[0], expected)
            timer.join()
        assert len(seen) == 3

        class Stop(Exception):
            pass

        def stop(*args):
            raise Stop("by request")

        signal.signal(signal.SIGUSR2, stop)
        timer = after(0.05, signal.SIGUSR2)
        try:
            module(torch.randn(60000, 1, 8))
            raise SystemExit("it was not stopped")
        except Stop as error:
            assert error.args == ("by request",)
        assert torch.equal(module(value)[0], expected)
        """
    )
