"""A trained model on disk: a plain config in JSON, and weights that hold tensors alone.

Both are read without running any code of the file (``weights_only=True``), so that a file from a
stranger can do no harm.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plstm_graph.molecules.errors import InputError
from plstm_graph.molecules.model import Architecture, MoleculeNet
from plstm_graph.molecules.targets import TASKS

FORMAT = "plstm-graph molecules"
VERSION = 1
CONFIG = "model.json"


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers that are none become null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; two processes do not disturb each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(plain(content), indent=1, allow_nan=False) + "\n")


def save_weights(path: Path, state: dict[str, Tensor]) -> None:
    import io

    buffer = io.BytesIO()
    torch.save({key: value.detach().cpu().contiguous() for key, value in state.items()}, buffer)
    write_atomically(path, buffer.getvalue())


def load_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name.

    Raises:
        InputError: if the file is broken or holds anything but tensors.
    """
    if not path.is_file():
        raise InputError(f"expected weights in {path}, which does not exist; copy the whole folder")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError,
            KeyError, AttributeError) as error:  # fmt: skip
        first = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(
            f"expected weights in {path}, got a file that is broken or holds more than tensors "
            f"({first}); copy it again, or train again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"expected tensors by name in {path}, got {type(state).__name__}")
    return state


@dataclass
class Member:
    """One network of a model.

    Args:
        file: its weights.
        seed, fold, number: how it came about.
        mean, std: [T] of its training targets; 0 and 1 of classes.
    """

    file: str
    seed: int
    fold: int
    number: int
    mean: list[float]
    std: list[float]


@dataclass
class ModelConfig:
    """What a model predicts, and what it is made of.

    Args:
        task: of the targets.
        targets: their names.
        classes: of "multiclass": their names.
        architecture: fields of :class:`Architecture`.
        orientation: of training.
        decimals: of each predicted column.
        members: of the model.
    """

    task: str
    targets: list[str]
    classes: list[str]
    architecture: dict
    orientation: str
    decimals: list[int]
    members: list[Member] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        content = {"format": FORMAT, "version": VERSION, **self.__dict__}
        content["members"] = [member.__dict__ for member in self.members]
        write_json(folder / CONFIG, content)

    @property
    def columns(self) -> list[str]:
        """Names of the predicted numbers."""
        if self.task != "multiclass":
            return self.targets
        return [f"{self.targets[0]}_{name}" for name in self.classes]


def load_model(folder: str | Path) -> tuple[ModelConfig, list[MoleculeNet]]:
    """A model that a run has written: its config, and its networks in float64.

    Raises:
        InputError: if there is none, or it is broken or of another version.
    """
    folder = Path(folder)
    if folder.is_file() and folder.name != CONFIG:
        old = folder.suffix in (".ckpt", ".pt", ".pth")
        raise InputError(
            f"expected model as the folder of a run, got the file {folder}"
            + (
                "; checkpoints of older versions hold code and cannot be loaded: train again with "
                "plstm-graph train"
                if old
                else ""
            )
        )
    folder = folder.parent if folder.name == CONFIG else folder
    path = next((p for p in (folder / "model" / CONFIG, folder / CONFIG) if p.is_file()), None)
    if path is None:
        what = "which does not exist"
        if folder.is_dir():
            what = "which holds no model"
            if (folder / "settings.json").is_file():
                what = "whose training has not finished; call plstm-graph train again to go on"
            elif list(folder.glob("**/*.ckpt")):
                what = "which an older version wrote; train again with plstm-graph train"
        raise InputError(f"expected model as the folder of a finished run, got {folder}, {what}")
    config = _read(path)
    nets = []
    for member in config.members:
        # The name is a plain one: a config must not point outside its folder.
        if Path(member.file).name != member.file:
            raise InputError(f"expected file names in {path}, got {member.file!r}")
        net = MoleculeNet(Architecture(**config.architecture))
        state = load_weights(path.parent / member.file)
        try:
            net.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise InputError(
                f"expected the weights of {path} in {member.file}, got others ({reason}); copy the "
                f"whole folder again"
            ) from error
        nets.append(net.double().eval())
    return config, nets


def _read(path: Path) -> ModelConfig:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        version = content.pop("version")
        if version != VERSION:
            raise InputError(
                f"expected a model of version {VERSION}, got version {version!r} in {path}; "
                + (
                    "update plstm-graph"
                    if isinstance(version, int) and version > VERSION
                    else "train again"
                )
            )
        members = [Member(**member) for member in content.pop("members")]
        config = ModelConfig(**content, members=members)
        Architecture(**config.architecture)
        if config.task not in TASKS or not members:
            raise ValueError(f"task {config.task!r}, {len(members)} members")
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(
            f"expected {path} as plstm-graph train wrote it, got {error!r}; copy the whole folder "
            f"again"
        ) from error
    return config
