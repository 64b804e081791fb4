from __future__ import annotations

import pytest
from benches.scenarios.__main__ import DOCUMENT, blocks
from benches.scenarios.markdown import filled


@pytest.mark.simulation
@pytest.mark.timeout(300)
def test_the_document_shows_what_the_code_computes() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert filled(text, blocks()) == text, (
        "run python -m benches.scenarios --write, and read the text beside the tables"
    )


def test_a_marker_without_a_table_and_a_table_without_a_marker_are_errors() -> None:
    text = "<!-- begin a -->\nold\n<!-- end a -->"
    assert filled(text, {"a": "new"}) == "<!-- begin a -->\nnew\n<!-- end a -->"
    with pytest.raises(KeyError):
        filled(text, {"a": "new", "b": "lost"})
    with pytest.raises(KeyError):
        filled(text, {})
