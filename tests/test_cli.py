"""``recsys``: every command is there, none loads what it does not need, and a failure is a sentence and a status."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipelines.cli import COMMANDS, main


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert all(f"    {name}" in said for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    module = importlib.import_module(COMMANDS[name][0])
    assert callable(module.add_arguments)
    assert callable(module.run)
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: recsys {name}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["retrian"], ["retrain"], ["evaluate", "--nonsense"]])
def test_what_is_not_a_command_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: recsys" in capsys.readouterr().err


def test_an_expected_failure_is_one_sentence(tmp_path, capsys):
    path = tmp_path / "night.toml"
    path.write_text("thread = 1")
    assert main(["retrain", str(path)]) == 2
    said = capsys.readouterr().err
    assert "unknown key 'thread'; did you mean 'threads'?" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "arguments", [["releases"], ["import", "generic", "{here}"], ["create-key", "shop", "--scope", "read"], ["retrain"]]
)
@pytest.mark.parametrize("database", ["sqlite:///{here}/notes.txt", "postgresql://nobody@127.0.0.1:1/shop"])
def test_a_database_that_does_not_answer_is_one_sentence(arguments, database, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("These are the notes of a shop, not its database.\n" * 99)
    config = tmp_path / "night.toml"
    folders = [f'{name} = "{tmp_path / name}"' for name in ("events", "cache", "releases", "images")]
    config.write_text("\n".join(["[paths]", f'database = "{database.format(here=tmp_path)}"', *folders]))
    named = [str(config)] if arguments == ["retrain"] else ["--config", str(config)]
    assert main([each.format(here=tmp_path) for each in arguments] + named) == 2
    said = capsys.readouterr().err
    assert "not a database" in said or "connection" in said
    assert "Traceback" not in said


def test_importing_a_shop_does_not_wait_for_torch():
    code = """
import sys
from pipelines.cli import main
try:
    main(["import", "--help"])
except SystemExit:
    pass
print("torch" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "False"


def test_the_installed_command_is_this_one():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    module, name = project["scripts"]["recsys"].split(":")
    assert getattr(importlib.import_module(module), name) is main
