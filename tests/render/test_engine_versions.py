from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferencecluster.api.engine import Engine
from inferencecluster.core.errors import SpecError
from inferencecluster.render.trtllm.shape import configured_version
from inferencecluster.render.trtllm.versions import EngineVersion, Span, parse_version, require_supported

IN_ORDER = (
    "1.0.0",
    "1.2.0rc6",
    "1.2.0rc6.post2",
    "1.2.0rc10",
    "1.2.0",
    "1.2.1",
    "1.3.0rc7",
    "1.3.0rc29",
    "1.3.0",
    "1.4.0rc1",
)


def test_releases_are_ordered_as_they_came_out() -> None:
    assert [str(version) for version in sorted(map(parse_version, reversed(IN_ORDER)))] == list(IN_ORDER)


@given(
    st.builds(
        EngineVersion,
        *[st.integers(0, 99)] * 3,
        candidate=st.integers(0, 99),
        post=st.integers(0, 9),
    )
)
def test_a_release_is_read_back_as_it_is_written(version: EngineVersion) -> None:
    assert parse_version(str(version)) == version


@pytest.mark.parametrize(
    "text", ["", "latest", "1.2", "1.2.1-arm64", "v1.2.1", "1.2.x", "1.2.1 ", "\u0661.2.1"]
)
def test_text_that_is_no_release_is_refused(text: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_version(text)
    assert refused.value.field == "spec.engine.version"


@pytest.mark.parametrize("text", ["1.2.0", "1.2.1", "1.2.9", "1.3.0rc1", "1.3.0rc29"])
def test_supported_lines_are_accepted(text: str) -> None:
    require_supported(parse_version(text))


@pytest.mark.parametrize("text", ["0.20.0", "1.1.0", "1.2.0rc6", "1.3.0", "1.3.1", "1.4.0rc1", "2.0.0"])
def test_other_lines_are_refused_with_the_supported_ones_named(text: str) -> None:
    with pytest.raises(SpecError, match=r"1\.2\.x and 1\.3\.0rcN") as refused:
        require_supported(parse_version(text))
    assert str(refused.value.value) == text


def test_a_span_reads_as_words() -> None:
    since, before = parse_version("1.2.0"), parse_version("1.3.0")
    assert str(Span(since=since)) == "from 1.2.0 on"
    assert str(Span(before=before)) == "before 1.3.0"
    assert str(Span(since=since, before=before)) == "from 1.2.0 on and before 1.3.0"


@pytest.mark.parametrize(
    ("engine", "version"),
    [
        pytest.param({"image": "r/release:1.3.0rc29"}, "1.3.0rc29", id="tag of the image"),
        pytest.param({"image": "r/own:7", "version": "1.2.1"}, "1.2.1", id="the field wins"),
        pytest.param({"backend": "Emulated", "image": "r/emulated"}, "1.2.1", id="emulated: newest stable"),
        pytest.param(
            {"backend": "Emulated", "image": "r/emulated:0.1.0"}, "1.2.1", id="emulated: not the tag"
        ),
        pytest.param(
            {"backend": "Emulated", "image": "r/emulated", "version": "1.3.0rc29"},
            "1.3.0rc29",
            id="emulated: as told",
        ),
    ],
)
def test_the_release_comes_from_field_or_image(engine: dict[str, str], version: str) -> None:
    assert str(configured_version(Engine.model_validate(engine))) == version


@pytest.mark.parametrize("image", ["r/engine:latest", "r/engine"])
def test_an_image_that_tells_no_release_needs_the_field(image: str) -> None:
    with pytest.raises(SpecError) as refused:
        configured_version(Engine.model_validate({"image": image}))
    assert refused.value.field == "spec.engine.version"
