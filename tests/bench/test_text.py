from pathlib import Path

import pytest
import torch

from stiefel.bench.text import Text, TextError, read_text


def as_bytes(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.tolist())


def test_a_batch_is_a_function_of_seed_and_step_alone(text: Text) -> None:
    first = text.batch(seed=3, step=7, rows=4, length=17)
    text.batch(seed=3, step=8, rows=4, length=17)
    torch.rand(5)
    assert torch.equal(text.batch(seed=3, step=7, rows=4, length=17), first)
    assert not torch.equal(text.batch(seed=3, step=8, rows=4, length=17), first)
    assert not torch.equal(text.batch(seed=4, step=7, rows=4, length=17), first)


def test_a_batch_holds_windows_of_the_training_text(text: Text) -> None:
    batch = text.batch(seed=0, step=0, rows=50, length=17)
    assert batch.shape == (50, 17)
    assert batch.dtype == torch.int64
    training = as_bytes(text.training)
    assert all(as_bytes(row) in training for row in batch)


def test_batches_reach_both_ends_of_the_training_text() -> None:
    text = Text(None, 1, "", training=torch.arange(20).byte(), held_out=torch.arange(20).byte())
    starts = text.batch(seed=0, step=0, rows=500, length=17)[:, 0]
    assert sorted(set(starts.tolist())) == [0, 1, 2, 3]


def test_every_tenth_file_is_held_out(folder: Path) -> None:
    text = read_text(folder, 17)
    training, held_out = as_bytes(text.training), as_bytes(text.held_out)
    assert text.files == 20
    for index in range(20):
        mark = f"file {index:02} ".encode()
        assert (mark in held_out) == (index in (9, 19))
        assert (mark in training) == (index not in (9, 19))


def test_the_last_of_few_files_is_held_out(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name * 30)
    text = read_text(tmp_path, 17)
    assert as_bytes(text.held_out) == b"c" * 30
    assert as_bytes(text.training) == b"a" * 30 + b"\n" + b"b" * 30


def test_the_last_tenth_of_one_file_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(1, 201)))
    text = read_text(path, 17)
    assert as_bytes(text.training) == bytes(range(1, 181))
    assert as_bytes(text.held_out) == bytes(range(181, 201))


def test_held_out_windows_are_spread_and_do_not_overlap() -> None:
    text = Text(None, 1, "", training=torch.arange(9).byte(), held_out=torch.arange(100).byte())
    assert text.held_out_windows(3, 10)[:, 0].tolist() == [0, 33, 66]
    assert text.held_out_windows(64, 10)[:, 0].tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]


def test_the_digest_changes_with_any_byte(folder: Path) -> None:
    before = read_text(folder, 17).digest
    assert read_text(folder, 17).digest == before
    (folder / "05.txt").write_text((folder / "05.txt").read_text().replace("file", "fill", 1))
    assert read_text(folder, 17).digest != before


def test_hidden_empty_and_binary_files_are_not_text(folder: Path) -> None:
    before = read_text(folder, 17)
    (folder / ".git").mkdir()
    (folder / ".git" / "00.txt").write_text("hidden")
    (folder / "00.png").write_bytes(b"\x89PNG\0\0")
    (folder / "00.empty").touch()
    after = read_text(folder, 17)
    assert (after.files, after.digest) == (before.files, before.digest)


def test_the_standard_library_is_the_default() -> None:
    text = read_text(None, 129)
    assert text.source == "Python standard library"
    assert len(text.training) > 4_000_000
    assert len(text.held_out) > 400_000
    everything = as_bytes(text.training) + as_bytes(text.held_out)
    assert b"class Fraction(numbers.Rational)" in everything
    assert b"class FractionTest" not in everything


@pytest.mark.parametrize(("size", "length", "part"), [(100, 91, "training"), (100, 11, "held-out")])
def test_too_little_text(tmp_path: Path, size: int, length: int, part: str) -> None:
    path = tmp_path / "short.txt"
    path.write_text("x" * size)
    with pytest.raises(TextError, match=rf"the {part} part of .*short.txt has \d+ bytes"):
        read_text(path, length)
    read_text(path, length=10)
