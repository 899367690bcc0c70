"""The demonstration's service: a process of its own, which is not waited for when waiting cannot help."""

from pathlib import Path

import pytest
from service_shop import CUTOFF, items, publish
from sqlalchemy import Engine

from pipelines.cli import main
from pipelines.demo import serving
from recsys.data.store import put_items
from recsys.errors import RecsysError, ReleaseError


def test_a_shop_of_ones_own_needs_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--data", "generic", "--var", str(tmp_path)]) == 2
    assert "--source: expected the folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_refused_release_ends_the_wait_with_its_reason(
    sqlite_engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_items(sqlite_engine, items())
    version = publish(sqlite_engine, tmp_path)
    (tmp_path / version / "tower.safetensors").unlink()
    with (  # a wait that ran out would be another error, of another kind
        pytest.raises(ReleaseError, match=rf"release {version} was refused: .*tower\.safetensors"),
        serving(str(sqlite_engine.url), CUTOFF),
    ):
        pass
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_service_that_ends_is_said_to_have_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RecsysError, match="ended with status 2 before it was ready"), serving("no database", CUTOFF):
        pass
    assert "expected sqlite:///PATH or postgresql://" in capsys.readouterr().err
