"""Where the tests of this folder run: on a GPU, or with FASTRNN_REHEARSE=1 on the CPU, to try the tests themselves."""

import os

import torch

import fastrnn

REHEARSE = os.environ.get("FASTRNN_REHEARSE") == "1"


def missing():
    """Why nothing can run here, or None."""
    if REHEARSE:
        return None
    if not torch.cuda.is_available():
        return "torch finds no GPU (FASTRNN_REHEARSE=1 tries these tests on the CPU)"
    if not fastrnn._native.cuda_built:
        return "fastrnn was built without CUDA: python3 setup.py build_ext --inplace, where nvcc is found"
    return None


def the_device():
    return torch.device("cpu") if REHEARSE else torch.device("cuda", torch.cuda.current_device())


def sized(real, rehearsed):
    """A size that matters only on a GPU."""
    return rehearsed if REHEARSE else real


def is_hopper():
    """An H100 or H200, about whose capacity the tests make claims."""
    facts = torch.cuda.get_device_properties(torch.cuda.current_device())
    return (facts.major, facts.minor) == (9, 0) and facts.multi_processor_count >= 128
