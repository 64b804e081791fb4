"""Hashes, image contexts and wheelhouses: what decides whether something is built again."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.localkube import images, wheels
from e2e.localkube.errors import BuildError
from e2e.localkube.hashing import hash_files, hash_texts

LOCK = """\
# comment
aiohttp==3.14.5 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via kopf
coverage[toml]==7.6 \\
    --hash=sha256:cc
typing_extensions==4.1 ; python_full_version < '3.13' \\
    --hash=sha256:dd
"""


def test_texts_that_join_to_the_same_string_have_different_keys() -> None:
    assert hash_texts("ab", "c") != hash_texts("a", "bc") != hash_texts("abc")


def test_content_name_and_executable_bit_change_a_key(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("1")
    keys = {hash_files(tmp_path, [tmp_path])}
    file.write_text("2")
    keys.add(hash_files(tmp_path, [tmp_path]))
    file.chmod(0o755)
    keys.add(hash_files(tmp_path, [tmp_path]))
    file.rename(tmp_path / "b")
    keys.add(hash_files(tmp_path, [tmp_path]))
    assert len(keys) == 4


def test_what_tools_leave_beside_sources_changes_no_key(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    key = hash_files(tmp_path, [tmp_path])
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("x")
    assert hash_files(tmp_path, [tmp_path]) == key


@pytest.mark.parametrize(
    ("dockerfile", "sources"),
    [
        pytest.param("COPY a b /c/", ["a", "b"], id="several"),
        pytest.param("copy --chown=1:1 a /c", ["a"], id="options and lower case"),
        pytest.param('COPY ["a b", "c", "/d"]', ["a b", "c"], id="JSON form"),
        pytest.param("COPY a \\\n  b /c/", ["a", "b"], id="continued line"),
        pytest.param(
            "COPY --from=build /x /y\nRUN cp a b\n# COPY z /", [], id="other stages and other instructions"
        ),
        pytest.param("ADD x.tar /", ["x.tar"], id="ADD"),
    ],
)
def test_the_context_is_what_the_dockerfile_copies(dockerfile: str, sources: list[str]) -> None:
    assert images.copied_paths(dockerfile) == sources


def _spec(folder: Path) -> images.ImageSpec:
    return images.ImageSpec("x", folder / "Dockerfile", folder)


def test_a_file_that_is_not_copied_does_not_change_the_image(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("COPY src /src\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("1")
    key = images.image_key(_spec(tmp_path))
    (tmp_path / "notes").write_text("x")
    assert images.image_key(_spec(tmp_path)) == key
    (tmp_path / "src" / "a.py").write_text("2")
    assert images.image_key(_spec(tmp_path)) != key


def test_a_copied_file_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("COPY src /src\n")
    with pytest.raises(BuildError, match="COPY src: no such file"):
        images.image_key(_spec(tmp_path))


def test_pushed_references_carry_the_registry_and_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    spec = _spec(tmp_path)
    monkeypatch.setattr(images, "IMAGES", (images.PAUSE, spec))
    assert images.image_references(None) == {"pause": "localhost/pause:1", "x": "localhost/x:dev"}
    assert images.image_references("host/path/") == {"x": f"host/path/x:{images.image_key(spec)}"}


def test_the_whole_lock_file_is_used_when_nothing_is_chosen() -> None:
    assert wheels.select(LOCK, ()) == LOCK


def test_chosen_entries_keep_their_hashes_and_markers() -> None:
    chosen = wheels.select(LOCK, ("typing.extensions", "Coverage"))
    assert "--hash=sha256:cc" in chosen
    assert "--hash=sha256:dd" in chosen
    assert "aiohttp" not in chosen


def test_a_package_that_the_lock_lacks_is_named() -> None:
    with pytest.raises(BuildError, match="no hatchling"):
        wheels.select(LOCK, ("hatchling",))


def test_wheels_newer_than_the_images_glibc_are_not_taken() -> None:
    tags = wheels.platforms()
    assert tags[0].startswith("manylinux_2_36_")
    assert not any("2_37" in tag for tag in tags)
