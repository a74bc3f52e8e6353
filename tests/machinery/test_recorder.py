"""The recorder and the figures: what they change, what they keep, and how they complain."""

from xml.etree import ElementTree as ET

import pytest

from ..support.figures import chart
from ..support.messages import table
from ..support.recorder import Recorder, stable
from ..support.sequence import in_order, sequence_diagram

TOKENS = ["AAAAAAAAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBBBBBBBB"]
KEY = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


def test_only_what_is_arbitrary_is_replaced():
    """The recorder replaces tokens, keys and ports, each by something as long, and nothing
    else."""
    text = (
        f"GET /jobs/{TOKENS[0]} HTTP/1.1\nHost: 127.0.0.1:8123\nIdempotency-Key: {KEY}\n\n"
        f'{{"token":"{TOKENS[0]}","result":42,"port":8123}} /jobs/made-up 10.0.0.1:8123'
    )
    kept = stable(text)
    assert len(kept) == len(text)
    for secret in KEY, f"/jobs/{TOKENS[0]} ", f'"{TOKENS[0]}"', "127.0.0.1:8123":
        assert secret not in kept
    for harmless in '"result":42', "/jobs/made-up", '"port":8123', "10.0.0.1:8123":
        assert harmless in kept


def test_the_same_becomes_the_same():
    """The same token becomes the same placeholder throughout, and another token another one."""
    one, other = TOKENS
    kept = stable(f"/jobs/{one} /jobs/{other} /jobs/{one}").split()
    assert kept[0] == kept[2] != kept[1]
    # The first token of any text has the same placeholder, so that two runs give one file.
    assert stable(f"/jobs/{other}") == kept[0]


@pytest.fixture
def snippets(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.support.recorder.SNIPPETS", tmp_path)
    return tmp_path


def test_a_difference_names_the_page(snippets):
    """When the output of a program differs from the recording, the test fails, shows the
    difference and names the page."""
    name = "short_polling/client.txt"
    Recorder(write=True)(name, "1 pending\n2 done\n")
    Recorder(write=False)(name, "1 pending\n2 done\n")
    with pytest.raises(AssertionError) as failed:
        Recorder(write=False)(name, "1 pending\n2 failed\n")
    message = str(failed.value)
    assert "docs/techniques/short-polling.md" in message
    assert "-2 done" in message and "+2 failed" in message


def test_a_recording_that_is_missing_fails(snippets):
    """A recording that does not exist fails as well; comparing writes nothing."""
    with pytest.raises(AssertionError, match=r"new\.txt"):
        Recorder(write=False)("token/new.txt", "hello\n")
    assert not list(snippets.iterdir())


def test_figures_are_described():
    """Each figure has a title and a description for readers who do not see it, and names no
    colour and no font."""
    trace = in_order([("up", "GET <x> & y", ""), ("down", "200", "ok")])
    drawn = sequence_diagram(trace, "A title", "What.")
    charted = chart([(0.5, 1)], lambda x: x, "x", "y", "A title", "What.", y_max=2)
    for figure in drawn, charted:
        root = ET.fromstring(figure)
        assert root.get("role") == "img"
        assert [root[0].tag, root[0].text, root[1].tag, root[1].text] == [
            "title",
            "A title",
            "desc",
            "What.",
        ]
        assert not any("#" in value for each in root.iter() for value in each.attrib.values())
        assert not any({"fill", "stroke", "font-family"} & set(each.keys()) for each in root.iter())


def test_a_table_has_a_row_for_each():
    """A table is Markdown, with commas at the thousands."""
    assert table([{"a": "x", "n": 1234}, {"a": "y", "n": 5}]) == (
        "| a | n |\n| --- | --: |\n| x | 1,234 |\n| y | 5 |\n"
    )
