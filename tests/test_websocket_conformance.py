"""The servers keep the rules of RFC 6455: what the Autobahn suite tries in its sections 1 to 7."""

import pytest

from .support.hostile import PROBE
from .support.sockets import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from .support.websocket_servers import ROBUST, start_server


@pytest.fixture(scope="module", params=[pytest.param(row, id=row.name) for row in ROBUST])
def server(request, start_shared, assembled_shared):
    """Return each server of WebSockets beyond the quick starts: (its row, the program)."""
    row = request.param
    return row, start_server(row, start_shared, assembled_shared, **PROBE)


def closed_with(server, *frames):
    """Send frames on a new connection; return the code with which the server closes it."""
    row, program = server
    with row.open(program) as client:
        client.send(*frames)
        return client.close_code()


def assert_accepted(server, *frames):
    """Send frames on a new connection, and check that it is open after them."""
    row, program = server
    with row.open(program) as client:
        client.send(*frames, frame(PING, b"still open"))
        client.wait_for(PONG, b"still open")


def text_of(server):
    """Return a text message that the server accepts, as bytes."""
    return server[0].message(200).encode()


@pytest.mark.parametrize("size", [0, 1, 125])
def test_a_pong_has_the_bytes_of_its_ping(server, size):
    """A ping of up to 125 bytes, of any content, gets a pong with the same payload."""
    row, program = server
    payload = bytes(range(130, 255))[:size]
    with row.open(program) as client:
        client.send(frame(PING, payload))
        client.wait_for(PONG, payload)


def test_an_unsolicited_pong_is_ignored(server):
    """A pong that follows no ping is ignored, with and without a payload."""
    assert_accepted(server, frame(PONG), frame(PONG, b"unsolicited"))


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_a_long_control_frame_is_1002(server, opcode):
    """A control frame with more than 125 bytes is a protocol error (1002)."""
    assert closed_with(server, frame(opcode, b"\x03\xe8" + b"x" * 124)) == 1002


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_a_fragmented_control_frame_is_1002(server, opcode):
    """A control frame that is fragmented is a protocol error (1002)."""
    assert closed_with(server, frame(opcode, final=False), frame(CONTINUATION)) == 1002


@pytest.mark.parametrize("reserved", range(1, 8))
def test_a_reserved_bit_is_1002(server, reserved):
    """A frame with a reserved bit that no extension has defined is a protocol error (1002), as a
    text message, as a ping and as a Close."""
    for opcode in TEXT, PING, CLOSE:
        assert closed_with(server, frame(opcode, reserved=reserved)) == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_a_reserved_opcode_is_1002(server, opcode):
    """A frame with a reserved opcode is a protocol error (1002), with and without a payload."""
    for payload in b"", b"payload":
        assert closed_with(server, frame(opcode, payload)) == 1002


def test_fragments_are_one_message(server):
    """A message in two fragments, in single bytes and with a ping in between is accepted."""
    data = text_of(server)
    first, last = frame(TEXT, data[:9], final=False), frame(CONTINUATION, data[9:])
    assert_accepted(server, first, last)
    row, program = server
    with row.open(program) as client:
        client.send(first, frame(PING, b"between"), last)
        client.wait_for(PONG, b"between")
    single = [frame(CONTINUATION, bytes([byte]), final=False) for byte in data[9:]]
    assert_accepted(server, first, *single, frame(CONTINUATION))


def test_fragments_out_of_order_are_1002(server):
    """A continuation without a beginning, and a new message within another one, are protocol
    errors (1002)."""
    assert closed_with(server, frame(CONTINUATION, b"x")) == 1002
    assert closed_with(server, frame(CONTINUATION, b"x", final=False)) == 1002
    assert closed_with(server, frame(TEXT, b"x", final=False), frame(TEXT, b"y")) == 1002
    assert closed_with(server, frame(TEXT, b"x", final=False), frame(BINARY, b"y")) == 1002


INVALID_TEXT = [
    *(b"\x80", b"\xc3", b"\xc3\x28", b"\xe2\x82", b"\xf0\x9f\x92"),  # cut short, or no beginning
    *(b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf"),  # longer than needed
    *(b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\x80\xed\xb0\x80"),  # surrogates
    *(b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfe", b"\xff"),  # beyond U+10FFFF
]


@pytest.mark.parametrize("data", INVALID_TEXT)
def test_text_that_is_not_utf8_is_1007(server, data):
    """A text message that is not valid UTF-8 is closed with 1007, in one frame and in two."""
    assert closed_with(server, frame(TEXT, b"abc" + data)) == 1007
    split = [frame(TEXT, b"abc" + data[:1], final=False), frame(CONTINUATION, data[1:])]
    assert closed_with(server, *split) == 1007


def test_a_character_may_be_split(server):
    """A character of two to four bytes may be split between two fragments: no 1007."""
    data = text_of(server)
    for character in "é", "€", "💥":
        text = data.replace(b"xx", character.encode(), 1)
        place = text.find(character.encode()) + 1
        assert_accepted(
            server, frame(TEXT, text[:place], final=False), frame(CONTINUATION, text[place:])
        )


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 3000, 3999, 4000, 4999])
def test_a_valid_close_is_echoed(server, code):
    """A Close with a valid code gets a Close with the same code."""
    assert closed_with(server, frame(CLOSE, code.to_bytes(2) + b"bye")) == code


def test_a_close_without_a_code_is_echoed(server):
    """A Close without a code gets a Close, without a code or with 1000."""
    assert closed_with(server, frame(CLOSE)) in {1000, 1005}


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000])
def test_an_invalid_close_code_is_1002(server, code):
    """A Close with a code that must not be sent is a protocol error (1002)."""
    assert closed_with(server, frame(CLOSE, code.to_bytes(2))) == 1002


def test_a_malformed_close_is_an_error(server):
    """A Close of a single byte is a protocol error (1002); a reason that is not UTF-8 is one as
    well, or 1007."""
    assert closed_with(server, frame(CLOSE, b"\x03")) == 1002
    assert closed_with(server, frame(CLOSE, b"\x03\xe8\xff")) in {1002, 1007}


def test_an_unmasked_frame_is_1002(server):
    """A frame of a client that is not masked is a protocol error (1002)."""
    assert closed_with(server, frame(TEXT, b"x", mask=None)) == 1002


def test_nothing_is_processed_after_a_close(server):
    """A ping after a Close gets no pong."""
    row, program = server
    with row.open(program) as client:
        client.send(frame(CLOSE, b"\x03\xe8"), frame(PING, b"too late"))
        assert client.close_code() == 1000  # and nothing after it
