"""Where and in which number format to compute."""

from __future__ import annotations

import ctypes
import sys

import torch

from adaloc.errors import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def choose_device(name: str) -> torch.device:
    """The device of a config's name; "auto" takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        ConfigError: when the named device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"The config asks for device {name}, but torch sees {torch.cuda.device_count()} CUDA devices."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("The config asks for device mps, but this machine has none.")
    return device


def device_of(name: str, local_rank: int) -> torch.device:
    """The device of one of several processes on a machine: each has a GPU of its own, or all share the CPU.

    Raises:
        ConfigError: when there is none for it.
    """
    device = choose_device(name)
    if device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise ConfigError(f"Several processes cannot share the device {device}. Set device to auto, cuda or cpu.")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"This machine has {torch.cuda.device_count()} GPUs and was given process {local_rank}, counted from 0. "
            "Start one process for each GPU."
        )
    return torch.device("cuda", local_rank)


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether the network runs in bfloat16: where the config says so, or, on auto, where the hardware has it.

    A CPU without AVX-512 BF16 or AMX emulates it about ten times slower than float32. With AVX-512 BF16 alone a step
    of the 16-channel network took 1.8 times as long as in float32 (one Zen 5 machine): most of the time of narrow
    layers goes into moving and converting numbers, not into products. So a CPU needs AMX.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu.get_capabilities().get("amx_bf16"))
    return False


def describe_device(device: torch.device) -> str:
    """For logs: "cpu (AMD EPYC, 2 threads)" or "cuda (NVIDIA H100)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        name = torch.cpu.get_capabilities().get("cpu_name", "")
        return f"cpu ({name + ', ' if name else ''}{torch.get_num_threads()} threads)"
    return device.type


def keep_freed_memory() -> None:
    """Lets the C library keep freed blocks for the next step instead of returning them to the system.

    A step on the CPU frees and takes again some hundred megabytes of activations; with glibc's defaults each block
    is mapped anew and its pages are cleared by the kernel. Without this a step of the default network takes about
    a tenth longer (measured with torch 2.13 on 2 cores). Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    library.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    library.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
