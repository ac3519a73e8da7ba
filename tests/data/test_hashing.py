"""The key of prepared data: equal for equal content, new for any change, and quick the second time."""

from pathlib import Path

import pytest

from overread.data import hashing
from overread.data.hashing import MEMO, content_key, file_sha256
from overread.errors import UserError


def _data(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "images" / "a.png").write_bytes(b"aaaa")
    (root / "dataset.json").write_text("{}")
    return root


def test_copies_share_a_key_and_changes_do_not(tmp_path: Path) -> None:
    first, second, cache = _data(tmp_path / "one"), _data(tmp_path / "two"), tmp_path / "cache"
    key = content_key(first, {"max_side": 128}, cache)
    assert content_key(second, {"max_side": 128}, cache) == key
    assert content_key(first, {"max_side": 64}, cache) != key
    (first / ".hidden").write_text("not data")
    assert content_key(first, {"max_side": 128}, cache) == key
    (first / "images" / "a.png").write_bytes(b"aaab")
    assert content_key(first, {"max_side": 128}, cache) != key
    (second / "images" / "a.png").rename(second / "images" / "b.png")
    assert content_key(second, {"max_side": 128}, cache) != key


def test_files_are_read_once_and_a_broken_memo_is_ignored(tmp_path: Path, monkeypatch) -> None:
    root, cache = _data(tmp_path / "one"), tmp_path / "cache"
    read: list[Path] = []
    hash_file = hashing.file_sha256
    monkeypatch.setattr(hashing, "file_sha256", lambda path: read.append(path) or hash_file(path))
    key = content_key(root, {}, cache)
    assert len(read) == 2
    assert content_key(root, {}, cache) == key
    assert len(read) == 2
    (cache / MEMO).write_text("[broken")
    assert content_key(root, {}, cache) == key
    assert len(read) == 4


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    root, cache = _data(tmp_path / "one"), tmp_path / "cache"
    plain = content_key(root, {}, cache)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "b.png").write_bytes(b"b")
    (root / "more").symlink_to(tmp_path / "far")
    (root / "loop").symlink_to(root)
    linked = content_key(root, {}, cache)
    assert linked != plain
    (tmp_path / "far" / "b.png").write_bytes(b"c")
    assert content_key(root, {}, cache) != linked


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # test vector of FIPS 180-2
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(UserError, match="must be readable"):
        file_sha256(tmp_path / "b")
