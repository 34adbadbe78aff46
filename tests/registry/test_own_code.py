"""What of a network of the user's own goes into the registry, and from where."""

import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from torch import nn

from atp.api import load_model
from atp.data.labels import LabelSpace
from atp.errors import InputError
from atp.models.checkpoint import save_checkpoint
from atp.models.network import NetworkConfig
from atp.models.own import OwnNetwork
from atp.registry.own_code import copy_own_code
from atp.registry.package import save_model

NET = "from torch import nn\nfrom packaging import version\nimport json, {other}\nmake = nn.Identity\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project as the working folder; the result goes to ``out`` in it."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    before = set(sys.modules)
    yield project
    for name in set(sys.modules) - before:
        if name.startswith("travel"):
            del sys.modules[name]


def files(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_a_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    (folder / "travel_a.py").write_text(NET.format(other="sys"))
    config = NetworkConfig(factory="travel_a:make", classifier="x", code=Path("travel_a.py"))
    # PyTorch is none of ours to leave out, as another version of it may not read the weights.
    assert copy_own_code(config, folder / "out") == [f"{name}=={version(name)}" for name in ("packaging", "torch")]
    assert files(folder / "out") == ["travel_a.py"]


@pytest.mark.parametrize("code", ["lib", "lib/travel_b"])
def test_a_package_below_a_folder_of_the_path(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.syspath_prepend(str(folder / "lib"))
    (folder / "lib/travel_b/__pycache__").mkdir(parents=True)
    (folder / "lib/travel_b/__init__.py").touch()
    (folder / "lib/travel_b/net.py").write_text(NET.format(other="os"))
    (folder / "lib/travel_b/sizes.json").write_text("{}")
    copy_own_code(NetworkConfig(factory="travel_b.net:make", classifier="x", code=Path(code)), folder / "out")
    assert files(folder / "out") == ["travel_b/__init__.py", "travel_b/net.py", "travel_b/sizes.json"]


def test_files_that_python_could_not_import_are_copied_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder / "lib"))
    (folder / "lib").mkdir()
    (folder / "lib/travel_f.py").write_text(NET.format(other="os"))
    (folder / "lib/template.py").write_text("import {{ name }}\n")
    (folder / "lib/latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nimport torch  # \xe9\n")
    copy_own_code(NetworkConfig(factory="travel_f:make", classifier="x", code=Path("lib")), folder / "out")
    assert files(folder / "out") == ["latin.py", "template.py", "travel_f.py"]


def test_an_installed_package_is_a_requirement(folder: Path) -> None:
    arguments = {"config": {"factory": "packaging.version:Version"}}
    config = NetworkConfig(factory="segmentation_models_pytorch:Unet", arguments=arguments, classifier="x")
    wanted = ["packaging", "segmentation_models_pytorch"]
    assert copy_own_code(config, folder / "out") == [f"{name}=={version(name)}" for name in wanted]
    assert not (folder / "out").exists()


def test_ours_need_nothing_more(folder: Path) -> None:
    assert copy_own_code(NetworkConfig(), folder / "out") == []


def test_what_is_neither_here_nor_installed_cannot_come_along(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder.parent))
    (folder.parent / "travel_c.py").write_text(NET.format(other="os"))
    config = NetworkConfig(factory="travel_c:make", classifier="x")
    with pytest.raises(InputError, match=r"travel_c\.py is in no installed package and not in the project"):
        copy_own_code(config, folder / "out")


def test_no_model_is_made_by_what_only_its_file_names(folder: Path) -> None:
    config = NetworkConfig(factory="os:system", arguments={"command": "touch done"}, classifier="x", num_classes=2)
    space = LabelSpace(("a", "b"), ((0, 0, 0), (1, 1, 1)))
    save_checkpoint(folder / "evil.safetensors", OwnNetwork(nn.Conv2d(3, 2, 1), config), config, space, {})
    with pytest.raises(InputError, match=r"building its network would call os:system, which no params.yaml here"):
        save_model(folder / "evil.safetensors", folder / "model")
    with pytest.raises(InputError, match="os:system"):
        load_model(str(folder / "evil.safetensors"))
    assert not (folder / "done").exists()
