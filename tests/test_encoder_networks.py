"""Any model by its name or directory: it runs fast, and gives what it gives plainly."""

from pathlib import Path

import numpy as np
import pytest
from encoding import cosine, skip_without_bfloat16, write_pictures
from PIL import Image

from recsys.encoders import (
    ImageEncoderConfig,
    TextEncoderConfig,
    encode_images,
    encode_texts,
    load_image_encoder,
    load_text_encoder,
)
from recsys.encoders.encode import parse_model_name
from recsys.encoders.torchvision_shim import import_torchvision
from recsys.errors import ConfigError, EncoderError


@pytest.fixture(scope="module", autouse=True)
def _torchvision() -> None:
    """These tests build timm's and transformers' models themselves, whichever runs first in its process."""
    import_torchvision()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pictures(tmp_path)


@pytest.mark.parametrize(("precision", "least"), [("float32", 0.99999), ("bfloat16", 0.99)])
@pytest.mark.parametrize(
    "name", ["test_efficientnet", "test_resnet", "test_vit", "test_convnext", "tf_efficientnet_b0"]
)
def test_timm_models_run_fast_and_give_what_they_give_plainly(name: str, precision: str, least: float) -> None:
    """With random weights: convolutions with norms are fused, squeeze-excite, attention and odd padding go through."""
    import timm
    import torch

    from recsys.encoders.image_networks import ImageNetwork, fast_image_model, run_images

    skip_without_bfloat16(precision)
    torch.manual_seed(0)
    size = 160 if name.startswith("test") else 97  # odd: TensorFlow's padding differs from side to side
    model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    network = ImageNetwork(model, "", size, (0.5,) * 3, (0.5,) * 3, Image.Resampling.BICUBIC, 1.0, model.num_features)
    pixels = np.random.default_rng(0).integers(0, 255, (3, size, size, 3), dtype=np.uint8)
    with torch.no_grad():
        plain = model(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()
    fast = fast_image_model(network, precision)
    assert isinstance(fast, torch.fx.GraphModule) == any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    ours = run_images(fast, network, pixels)
    assert cosine(ours, plain).min() > least


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_convolutional_network_is_really_fused(precision: str) -> None:
    import timm
    import torch

    from recsys.encoders.fuse import FusedConvolution, fuse_convolutions

    skip_without_bfloat16(precision)
    bfloat16 = precision == "bfloat16"
    model = timm.create_model("test_efficientnet", pretrained=False, num_classes=0).eval()
    fused = fuse_convolutions(model, torch.rand(4, 3, 160, 160), bfloat16)
    assert fused is not None
    kinds = [type(module).__name__ for module in fused.modules()]
    assert not any("BatchNorm" in kind for kind in kinds)
    assert sum(isinstance(module, FusedConvolution) for module in fused.modules()) > 10
    assert any("BatchNorm" in type(module).__name__ for module in model.modules())  # the model itself is untouched
    assert (
        fuse_convolutions(timm.create_model("test_vit", pretrained=False).eval(), torch.rand(4, 3, 160, 160), bfloat16)
        is None
    )


def test_rounding_leaves_flat_regions_and_the_mean_where_they_were() -> None:
    import torch

    from recsys.encoders.fuse import _round_filters, _round_weights

    random = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 1, 3, 3, generator=random)
    ours, plain = _round_filters(weight), weight.bfloat16()
    assert (ours.float() - weight).abs().max() < 0.02
    drift = [(rounded.double().sum((2, 3)) - weight.double().sum((2, 3))).abs().mean() for rounded in (ours, plain)]
    assert drift[0] < drift[1] / 4

    weight, bias = torch.randn(32, 20, 1, 1, generator=random), 20 * torch.randn(32, generator=random)
    mean = torch.rand(40, generator=random)
    ours, plain = _round_weights(weight, bias, mean, groups=2), weight.bfloat16()
    assert (ours.float() - weight).abs().max() < 0.05
    given = mean.double().view(1, 40, 1, 1)
    wanted = torch.conv2d(given, weight.double(), bias.double(), groups=2)
    drift = [
        (torch.conv2d(given, rounded.double(), bias.bfloat16().double(), groups=2) - wanted).abs().mean()
        for rounded in (ours, plain)
    ]
    assert drift[0] < drift[1] / 4


def test_a_timm_directory_works_by_its_path(folder: Path) -> None:
    import timm
    from timm.models import save_for_hf

    model = timm.create_model("test_resnet", pretrained=False, num_classes=7)
    save_for_hf(model, folder / "model", safe_serialization=True)
    encoded = encode_images(
        sorted(folder.glob("*.png")), ImageEncoderConfig(str(folder / "model")), None, progress=False
    )
    assert encoded.present.all()
    encoder = load_image_encoder(ImageEncoderConfig(f"timm:{folder / 'model'}"))
    assert encoder.dim == encoded.vectors.shape[1] == model.num_features
    assert encoder.classifier is not None
    assert encoder.classifier[0].shape == (7, model.num_features)
    (folder / "model" / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"model\.safetensors"):
        load_image_encoder(ImageEncoderConfig(str(folder / "model")))


def save_tokenizer(folder: Path, kind: str) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", "red", "blue", "dress", "drill", "socks", "wool", "a", "summer"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "$A [EOS]" if kind == "siglip" else "[BOS] $A [EOS]"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("[BOS]", 1), ("[EOS]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        unk_token="[UNK]",
        model_max_length=16,
    ).save_pretrained(folder)


TEXT_SIDE = {
    "vocab_size": 12,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TEXT_SIDE |= {"max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
IMAGE_SIDE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IMAGE_SIDE |= {"image_size": 32, "patch_size": 8}


def save_model(folder: Path, kind: str) -> None:
    """A tiny transformers model with random weights, its tokeniser and its image processor."""
    import torch
    import transformers as hf

    torch.manual_seed(0)
    if kind == "clip":
        model = hf.CLIPModel(hf.CLIPConfig(text_config=TEXT_SIDE, vision_config=IMAGE_SIDE, projection_dim=24))
        hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    elif kind == "siglip":
        model = hf.SiglipModel(hf.SiglipConfig(text_config=TEXT_SIDE, vision_config=IMAGE_SIDE))
        hf.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    elif kind == "vit":
        model = hf.ViTModel(hf.ViTConfig(**IMAGE_SIDE))
        hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    else:
        model = hf.BertModel(hf.BertConfig(**TEXT_SIDE))
    model.save_pretrained(folder)
    if kind != "vit":
        save_tokenizer(folder, kind)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for kind in ("clip", "siglip", "vit", "bert"):
        save_model(root / kind, kind)
    return root


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_joint_model_from_a_directory_encodes_both_sides(kind: str, saved: Path, folder: Path) -> None:
    import torch
    import transformers as hf

    name = str(saved / kind)
    paths, words = sorted(folder.glob("*.png")), ["Red dress", "wool socks a summer a dress", "drill"]
    images = encode_images(paths, ImageEncoderConfig(name, precision="float32"), None, progress=False)
    texts = encode_texts(words, TextEncoderConfig(name, precision="float32"), None, progress=False)
    assert images.vectors.shape[1] == texts.vectors.shape[1]
    model = hf.AutoModel.from_pretrained(name).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(name)
    padding = {"padding": "max_length", "max_length": 16} if kind == "siglip" else {"padding": True}
    tokens = tokenizer(words, return_tensors="pt", **padding)
    if kind == "siglip":
        tokens = {"input_ids": tokens["input_ids"]}
    else:
        tokens.pop("token_type_ids", None)
    encoder = load_image_encoder(ImageEncoderConfig(name, precision="float32"))
    pixels = np.stack([encoder.prepare(path.read_bytes()) for path in paths])
    mean, std = (np.array(values) for values in (encoder.description["mean"], encoder.description["std"]))
    scaled = torch.from_numpy(((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    with torch.no_grad():
        plain_texts = model.get_text_features(**tokens).pooler_output.numpy()
        plain_images = model.get_image_features(pixel_values=scaled).pooler_output.numpy()
    assert cosine(texts.vectors, plain_texts).min() > 0.99999
    assert cosine(images.vectors, plain_images).min() > 0.99999


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_joint_model_in_bfloat16_is_near_to_itself(kind: str, saved: Path, folder: Path) -> None:
    skip_without_bfloat16("bfloat16")
    name = f"hf:{saved / kind}"
    paths, words = sorted(folder.glob("*.png")), ["Red dress", "wool socks a summer a dress", "drill"]
    images = [
        encode_images(paths, ImageEncoderConfig(name, precision), None, progress=False)
        for precision in ("float32", "bfloat16")
    ]
    texts = [
        encode_texts(words, TextEncoderConfig(name, precision=precision), None, progress=False)
        for precision in ("float32", "bfloat16")
    ]
    for exact, fast in (images, texts):
        assert fast.present.all()
        assert cosine(fast.vectors, exact.vectors).min() > 0.99


def test_image_and_text_models_from_a_directory(saved: Path, folder: Path) -> None:
    paths = sorted(folder.glob("*.png"))
    assert encode_images(paths, ImageEncoderConfig(str(saved / "vit")), None, progress=False).vectors.shape == (11, 32)
    config = TextEncoderConfig(str(saved / "bert"), precision="float32")
    mean = encode_texts(["red dress", "a"], config, None, progress=False)
    assert mean.vectors.shape == (2, 32)
    pooling = saved / "bert" / "1_Pooling" / "config.json"
    pooling.parent.mkdir()
    pooling.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    first = encode_texts(["red dress", "a"], config, None, progress=False)
    assert cosine(mean.vectors, first.vectors).max() < 0.9999
    pooling.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(EncoderError, match="pooling by the mean or the first token"):
        load_text_encoder(config)


def test_another_tokeniser_is_another_encoder(saved: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(saved / "clip", tmp_path / "clip")
    before = load_text_encoder(TextEncoderConfig(str(copy))).fingerprint
    assert before == load_text_encoder(TextEncoderConfig(str(saved / "clip"))).fingerprint  # the place does not count
    file = copy / "tokenizer.json"
    file.write_text(file.read_text().replace('"wool"', '"silk"'))
    assert load_text_encoder(TextEncoderConfig(str(copy))).fingerprint != before


def test_models_that_cannot_be_had_say_why(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"takes no pictures|image processor"):
        load_image_encoder(ImageEncoderConfig(str(saved / "bert")))
    with pytest.raises(EncoderError, match=r"takes no text|tokenizer"):
        load_text_encoder(TextEncoderConfig(str(saved / "vit")))
    with pytest.raises(EncoderError, match="expected a model's directory, found none"):
        load_text_encoder(TextEncoderConfig("/nowhere/at/all"))
    with pytest.raises(EncoderError, match=r"config\.json"):
        load_image_encoder(ImageEncoderConfig(str(tmp_path)))
    with pytest.raises(EncoderError, match="no_such_network"):
        load_image_encoder(ImageEncoderConfig("timm:no_such_network"))
    for name in ("", "tensorflow:resnet", "timm:"):
        with pytest.raises(ConfigError, match="efficientnet-lite0, timm, hf"):
            load_image_encoder(ImageEncoderConfig(name))
    with pytest.raises(ConfigError, match="'layers' after the colon, came 'layer'"):
        load_image_encoder(ImageEncoderConfig("efficientnet-lite0:layer"))
    with pytest.raises(ConfigError, match="'layers' after the colon, came 'words'"):
        load_text_encoder(TextEncoderConfig("minilm-l6:words"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(EncoderError, match=r"model\.safetensors"):
        load_text_encoder(TextEncoderConfig(str(tmp_path)))


def test_names() -> None:
    schemes = ["efficientnet-lite0", "timm", "hf"]
    for model, expected in {
        "efficientnet-lite0": ("efficientnet-lite0", ""),
        "efficientnet-lite0:layers": ("efficientnet-lite0", "layers"),
        "timm:resnet18": ("timm", "resnet18"),
        "resnet18": ("timm", "resnet18"),
        "openai/clip-vit-base-patch32": ("hf", "openai/clip-vit-base-patch32"),
    }.items():
        assert parse_model_name(model, schemes, otherwise="timm") == expected
