"""Publish and receive the events of a server, as many proofs do."""

import json
import re
import time
import uuid
from contextlib import suppress

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from .processes import TIMEOUT
from .sockets import connect

# One for all: making one costs more than what is sent through it.
WEB = httpx2.Client()


def events_url(server, after=None):
    """Return the address of the WebSocket that sends the events after an id."""
    return f"ws://127.0.0.1:{server.port}/events" + (f"?after={after}" if after else "")


def publish(server, *texts):
    """Publish events; return their ids."""
    responses = [WEB.post(f"{server.url}/events", json={"text": text}) for text in texts]
    assert [response.status_code for response in responses] == [201] * len(texts)
    return [response.json()["id"] for response in responses]


def receive_texts(websocket, count):
    """Return the texts of the next events, without heartbeats."""
    texts = []
    while len(texts) < count:
        event = json.loads(websocket.recv(TIMEOUT))
        texts += [event["text"]] if "text" in event else []
    return texts


def metric(server, name):
    """Return a number of a server's /metrics; 0 for one that it does not name."""
    found = re.search(rf"(?m)^{re.escape(name)} (.+)$", WEB.get(f"{server.url}/metrics").text)
    return float(found[1]) if found else 0


def close_code(websocket):
    """Return the code with which a server closes."""
    with pytest.raises(ConnectionClosed):
        while True:
            websocket.recv(TIMEOUT)
    return websocket.close_code


def publish_until_accepted(urls, text, path="events", timeout=1):
    """Publish until it is accepted, at one address after the other; return (its id, statuses).

    It is sent under one key, so that it is stored once however often it is sent.
    """
    key, statuses, end = str(uuid.uuid4()), [], time.monotonic() + TIMEOUT
    headers = {"Idempotency-Key": key}
    while time.monotonic() < end:
        for url in urls:
            try:
                response = WEB.post(
                    f"{url}/{path}", json={"text": text}, headers=headers, timeout=timeout
                )
            except httpx2.TransportError:
                statuses.append(0)
            else:
                statuses.append(response.status_code)
                if response.status_code in {201, 202}:
                    body = response.json()
                    return body.get("id") or body["job"], statuses
        time.sleep(0.05)
    raise AssertionError(f"never accepted: {statuses}")


def ready(gateway):
    """Return a gateway once it has begun to read the log, and accepts clients."""
    event_id, _ = publish_until_accepted([gateway.url], "ready")
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        with suppress(ConnectionClosed, InvalidStatus):  # 503: it has not read the log yet
            with connect(events_url(gateway, event_id)) as websocket:
                websocket.recv(TIMEOUT)  # a heartbeat
                return gateway
    raise AssertionError("it does not read the log")
