"""The text to train on: a file or a folder as bytes, cut into training and held-out parts.

Bytes need no tokeniser, so any text will do and nothing is downloaded: the default text is the
source code of the Python standard library, which every user already has.
"""

import hashlib
import random
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from stiefel.errors import StiefelError

_HOLD_OUT_EVERY = 10
_NOT_SOURCES = {"site-packages", "dist-packages", "test", "tests", "idle_test"}


class TextError(StiefelError):
    """The text cannot be read, or there is too little of it."""


@dataclass(frozen=True, eq=False)  # tensors have no single truth value
class Text:
    """Training and held-out bytes (uint8 vectors), which come from different files."""

    path: Path | None
    files: int
    digest: str
    training: Tensor = field(repr=False)
    held_out: Tensor = field(repr=False)

    @property
    def source(self) -> str:
        """The name of the text for people."""
        return _name(self.path)

    def batch(self, seed: int, step: int, rows: int, length: int) -> Tensor:
        """Random training windows, as int64 `[rows, length]`.

        They depend on `seed` and `step` alone, so two optimisers see the same bytes, and a
        resumed run needs no record of what was already read.
        """
        starts = random.Random(f"{seed}/{step}").choices(
            range(len(self.training) - length + 1), k=rows
        )
        return _windows(self.training, starts, length)

    def held_out_windows(self, count: int, length: int) -> Tensor:
        """Up to `count` windows spread evenly over the held-out bytes, none overlapping."""
        count = min(count, len(self.held_out) // length)
        stride = len(self.held_out) // count
        return _windows(self.held_out, [index * stride for index in range(count)], length)


def read_text(path: Path | None, length: int) -> Text:
    """Read a file, all text files of a folder, or (None) the Python standard library.

    Every tenth file is held out; of a single file, the last tenth. Both parts must hold at least
    one window of `length` bytes.
    """
    blobs = _read(_standard_library() if path is None else _files(path))
    if not blobs:
        raise TextError(f"{path} holds no text: give --data a file or folder with text in it.")
    training, held_out = _split(blobs)
    for part, blob in (("training", training), ("held-out", held_out)):
        if len(blob) < length:
            raise TextError(
                f"the {part} part of {_name(path)} has {len(blob)} bytes, but one window needs "
                f"{length}: give --data more text, or a smaller --context."
            )
    digest = hashlib.sha256(training + b"\0" + held_out).hexdigest()[:16]
    return Text(path, len(blobs), digest, _to_tensor(training), _to_tensor(held_out))


def _name(path: Path | None) -> str:
    return "Python standard library" if path is None else str(path)


def _standard_library() -> list[Path]:
    root = Path(sysconfig.get_paths()["stdlib"])
    sources = (path.relative_to(root) for path in root.rglob("*.py"))
    return [root / path for path in sorted(sources) if _NOT_SOURCES.isdisjoint(path.parts)]


def _files(path: Path) -> list[Path]:
    """The file itself, or all files of the folder but hidden ones."""
    if not path.is_dir():
        return [path]
    found = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    return [path / file for file in sorted(found) if not f"/{file.as_posix()}".count("/.")]


def _read(files: list[Path]) -> list[bytes]:
    """The bytes of each file that is text: neither empty nor, by a NUL byte, binary."""
    try:
        blobs = [file.read_bytes() for file in files]
    except OSError as error:
        raise TextError(
            f"cannot read {error.filename} ({error.strerror}): give --data a text file, or a "
            "folder of text files, that exists and is readable."
        ) from error
    return [blob for blob in blobs if blob and b"\0" not in blob]


def _split(blobs: list[bytes]) -> tuple[bytes, bytes]:
    """Training and held-out text: whole files where there are several."""
    if len(blobs) == 1:
        cut = len(blobs[0]) - len(blobs[0]) // _HOLD_OUT_EVERY
        return blobs[0][:cut], blobs[0][cut:]
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for index, blob in enumerate(blobs, start=1):
        parts[index % _HOLD_OUT_EVERY == 0 or index == len(blobs)].append(blob)
    return b"\n".join(parts[0]), b"\n".join(parts[1])


def _to_tensor(blob: bytes) -> Tensor:
    return torch.frombuffer(bytearray(blob), dtype=torch.uint8)


def _windows(text: Tensor, starts: list[int], length: int) -> Tensor:
    return torch.stack([text[start : start + length] for start in starts]).long()
