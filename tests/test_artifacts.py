"""A release directory: the same answers after the disk, one version for one content, nothing altered passes."""

import json
import shutil
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from recsys.artifacts import load_release, read_manifest, save_release
from recsys.errors import ReleaseError
from recsys.ranking.features import FEATURES
from recsys.recommend import recommend
from tests.builders import CUTOFF, LISTS, build_release, build_shop, mixed_requests, recipe


@pytest.fixture(scope="module")
def release():
    return build_release(*build_shop())


@pytest.fixture(scope="module")
def saved(release, tmp_path_factory):
    """A release directory, to be copied before it is harmed."""
    releases = tmp_path_factory.mktemp("releases")
    return releases / save_release(release, releases).manifest.version


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / saved.name)
    return tmp_path / saved.name


def rewrite(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("ranker", [True, False])
@pytest.mark.parametrize("config", [recipe(), recipe(LISTS)])
def test_a_loaded_release_gives_the_same_slates(config, ranker, tmp_path):
    made = build_release(*build_shop(n_items=200), config, ranker=ranker)
    saved = save_release(made, tmp_path)
    loaded = load_release(tmp_path / saved.manifest.version)
    assert loaded.manifest == saved.manifest
    assert (loaded.item_ids, loaded.titles) == (made.item_ids, made.titles)
    assert np.array_equal(loaded.in_stock, made.in_stock)
    assert (loaded.ranker is None) is not ranker
    requests = mixed_requests(made.item_ids, 60, seed=2)
    assert recommend(loaded, requests) == recommend(saved, requests)


def test_the_same_content_is_one_version_and_the_same_bytes(release, tmp_path):
    first, second = save_release(release, tmp_path / "a"), save_release(release, tmp_path / "b")
    assert first.manifest == second.manifest
    assert first.manifest.version.startswith(f"{CUTOFF:%Y%m%dT%H%M%S}-")
    names = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*"))
    assert names == sorted(path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*"))
    for name in names:
        if (tmp_path / "a" / name).is_file():
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    # A release that was loaded is saved as what it was.
    loaded = load_release(tmp_path / "a" / first.manifest.version)
    assert save_release(loaded, tmp_path / "a").manifest == first.manifest
    assert [path.name for path in (tmp_path / "a").iterdir()] == [first.manifest.version]


def test_metrics_and_commit_do_not_make_another_version_but_content_does(release, tmp_path):
    version = save_release(release, tmp_path).manifest.version

    def version_of(**changes):
        return save_release(replace(release, manifest=replace(release.manifest, **changes)), tmp_path).manifest.version

    assert version_of(metrics={"ndcg@12": 0.5}, code_commit="abc") == version
    assert version_of(config={**release.manifest.config, "seed": 9}) != version
    assert version_of(data_cutoff=CUTOFF + timedelta(days=1)) != version
    other = save_release(replace(release, in_stock=~release.in_stock), tmp_path)
    assert other.manifest.version != version


def test_every_altered_or_missing_file_is_refused(saved, tmp_path):
    for number, name in enumerate(read_manifest(saved).files):
        folder = tmp_path / str(number)
        shutil.copytree(saved, folder)
        path = folder / name
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(ReleaseError, match=r"expected sha256 \w+…, came \w+") as caught:
            load_release(folder)
        assert name in str(caught.value)
        path.unlink()
        with pytest.raises(ReleaseError, match="came nothing"):
            load_release(folder)
        with pytest.raises(ReleaseError) as caught:
            load_release(folder, verify=False)
        assert path.name in str(caught.value)
        shutil.rmtree(folder)


def test_a_manifest_that_was_edited_is_refused(folder):
    raw = json.loads((folder / "manifest.json").read_text())
    rewrite(folder, config={**raw["config"], "seed": 1})
    with pytest.raises(ReleaseError, match=r"manifest\.json: expected .* as its content says, came"):
        load_release(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ["only_this"]}, "features: expected .*came .'only_this'"),
        ({"features": list(FEATURES[::-1])}, "features: expected"),
        ({"sources": ["trending"]}, "sources: expected"),
        ({"format": 99}, "format: expected 1, came 99"),
        ({"a_key_of_the_future": 1}, "a_key_of_the_future"),
        ({"data_cutoff": "yesterday"}, "yesterday"),
        ({"features": None}, r"expected a release with a manifest\.json"),
    ],
)
def test_a_release_of_other_code_is_refused(folder, changes, message):
    rewrite(folder, **changes)
    for verify in (True, False):
        with pytest.raises(ReleaseError, match=message):
            load_release(folder, verify=verify)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_something_else_than_a_manifest_is_refused(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ReleaseError, match=r"expected a release with a manifest\.json"):
        load_release(folder)


def test_no_directory_is_refused(tmp_path):
    with pytest.raises(ReleaseError, match=r"absent: expected a release with a manifest\.json"):
        load_release(tmp_path / "absent")


def test_a_save_that_fails_leaves_nothing(release, tmp_path):
    def full_disk(folder):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        save_release(release, tmp_path, full_disk)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ReleaseError, match="expected a release with its indexes"):
        save_release(replace(release, retrieval=replace(release.retrieval, index=None)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_crash_left_behind_does_no_harm(release, tmp_path):
    (tmp_path / ".draft-0123").mkdir()
    (tmp_path / ".draft-0123" / "manifest.json").write_text("{")
    saved = save_release(release, tmp_path)
    assert load_release(tmp_path / saved.manifest.version).manifest == saved.manifest


def test_the_aligner_travels_with_the_release(release, tmp_path):
    def save_aligner(folder):
        folder.mkdir()
        (folder / "heads.txt").write_text("weights")

    saved = save_release(release, tmp_path, save_aligner)
    assert "aligner/heads.txt" in saved.manifest.files
    (tmp_path / saved.manifest.version / "aligner" / "heads.txt").write_text("others")
    with pytest.raises(ReleaseError, match=r"heads\.txt: expected sha256"):
        load_release(tmp_path / saved.manifest.version)


def test_files_beside_the_release_are_welcome(folder):
    (folder / "report.html").write_text("written after the release was sealed")
    assert load_release(folder).manifest.version == folder.name


def test_rows_are_found_by_item_id(release):
    assert release.row_of(release.item_ids[7]) == 7
    assert release.row_of("never heard of") is None


def test_similar_items_by_hand(release):
    spaces = release.tables.spaces
    row = release.row_of("red-005")
    fused = np.asarray(spaces["fused"], np.float32)
    likeness = fused @ fused[row]
    likeness[[row, *np.flatnonzero(~release.in_stock)]] = -1
    expected = np.argsort(-likeness, kind="stable")[:5]
    came = release.similar(["red-005"], 5)
    assert [item_id for item_id, _ in came] == [release.item_ids[n] for n in expected]
    assert [score for _, score in came] == pytest.approx(likeness[expected], abs=1e-6)


def test_similar_weighs_picture_words_and_behaviour(release):
    row = release.row_of("red-005")
    table = release.retrieval.tables["copurchase"]
    came = dict(release.similar(["red-005"], 80, {"image": 0.5, "behaviour": 2.0}))
    image = np.asarray(release.tables.spaces["image"], np.float32)
    linked = dict(zip(table.neighbours[row].tolist(), table.weights[row].tolist()))
    for item_id, score in came.items():
        other = release.row_of(item_id)
        assert score == pytest.approx(0.5 * image[row] @ image[other] + 2 * linked.get(other, 0), abs=1e-6)
    assert min(came.values()) > 0


def test_similar_to_several_to_unknown_and_to_nothing(release):
    pair = release.similar(["red-005", "never heard of", "blue-005"], 80)
    assert not {"red-005", "blue-005"} & {item_id for item_id, _ in pair}
    assert {item_id[:-4] for item_id, _ in pair[:10]} == {"red", "blue"}
    assert release.similar(["never heard of"], 5) == []
    assert release.similar([], 5) == []
    assert release.similar(["red-002"], 5) == []  # no embedding
    none_left = np.zeros(len(release.item_ids), bool)
    assert release.similar(["red-005"], 5, available=none_left) == []
