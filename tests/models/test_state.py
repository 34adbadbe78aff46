import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from atp.errors import InputError
from atp.models.state import load_user_state, tell

STATE = {"a.weight": torch.arange(3.0), "b": torch.ones(2)}


class Payload:
    """Runs a shell command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize(
    "wrapped",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3, "lr": 0.1},
        {"model": STATE, "optimizer": {"state": {}}},
        {"model": {"state_dict": STATE}},
        {"state_dict": {f"module.{key}": value for key, value in STATE.items()}},
        {key: torch.nn.Parameter(value) for key, value in STATE.items()},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappers_come_off(tmp_path, wrapped, zipped):
    torch.save(wrapped, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    state = load_user_state(tmp_path / "x.pth")
    assert state.keys() == STATE.keys()
    assert all(torch.equal(value, STATE[key]) and not value.requires_grad for key, value in state.items())


def test_safetensors_are_known_by_their_content(tmp_path):
    save_file(STATE, tmp_path / "x.pth")
    assert torch.equal(load_user_state(tmp_path / "x.pth")["b"], STATE["b"])


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_file_that_needs_unpickling_is_refused_and_its_code_never_runs(tmp_path, form):
    marker, path = tmp_path / "marker", tmp_path / "x.pth"
    content = {"state_dict": STATE, "args": Payload(f"touch {marker}")}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(
        InputError, match=r"x\.pth: contains Python objects.*torch\.save\(model\.state_dict\(\)"
    ) as caught:
        load_user_state(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    # The payload is live: unpickling does run it.
    pickle.loads(path.read_bytes()) if form == "pickle" else torch.load(path, weights_only=False)
    assert marker.exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(InputError, match="unpickling them can execute code"):
        load_user_state(tmp_path / "x.pth")


def test_files_that_are_not_whole(tmp_path):
    torch.save(STATE, tmp_path / "zip.pth")
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(STATE, tmp_path / "x.safetensors")
    for path in list(tmp_path.iterdir()):
        path.write_bytes(path.read_bytes()[:-7])
    (tmp_path / "text.pth").write_text("<!DOCTYPE html>")
    (tmp_path / "empty.pth").touch()
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match=rf"{path.name}: not a complete .*; copy it again"):
            load_user_state(path)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"x\.pth: cannot be read: no such file"):
        load_user_state(tmp_path / "x.pth")
    with pytest.raises(InputError, match="cannot be read"):
        load_user_state(tmp_path)


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [torch.ones(1)], {"state_dict": {"a": 1}}, torch.ones(1)])
def test_files_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InputError, match="contains no state dict"):
        load_user_state(tmp_path / "x.pth")


def test_tell_names_the_largest_whole_group():
    among = ["a.x.w", "a.x.b", "a.y.w", "b.w", "b.b", "c"]
    assert tell(["a.x.w", "a.x.b", "b.w", "c"], among) == "a.x.* (2), b.w, c"
    assert tell(among, among) == "a.* (3), b.* (2), c"
