"""Twenty clients in one thread, which are the room's own client, and a publisher that insists."""

import asyncio
import importlib.util
import threading
import time
import uuid
from contextlib import suppress

import httpx2
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from .processes import EXAMPLES, TIMEOUT


def client_of(room, **settings):
    """Return the module of a room's client.py, with other settings."""
    path = EXAMPLES / room / "client.py"
    spec = importlib.util.spec_from_file_location(f"{room}_client", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in settings.items():
        assert hasattr(module, name)
        setattr(module, name, value)
    return module


class Crowd:
    """Clients that follow from an id until they are told `last`, each its own list of texts.

    `addresses`: for each client, the addresses that it knows.
    """

    def __init__(self, client, addresses, seen, last):
        self.told = [[] for _ in addresses]
        self.said = []  # what clients print: why they come back
        self._client, self._seen, self._last = client, seen, last
        self._thread = threading.Thread(target=self._run, args=[addresses], daemon=True)
        self._thread.start()

    def _run(self, addresses):
        asyncio.run(self._all(addresses))

    async def _all(self, addresses):
        following = [self._one(urls, told) for urls, told in zip(addresses, self.told, strict=True)]
        await asyncio.gather(*following, return_exceptions=True)

    async def _one(self, urls, told):
        def handle(event):
            told.append(event["text"])
            return event["text"] == self._last

        def say(words, **_):
            self.said.append(words)

        await self._client.follow(urls, handle, self._seen, say)

    def wait_for(self, text):
        """Return once every client has been told this."""
        end = time.monotonic() + TIMEOUT
        while not all(text in told for told in self.told):
            assert time.monotonic() < end, [len(told) for told in self.told]
            time.sleep(0.01)

    def end(self):
        """Return what each was told, when all have been told the last."""
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive(), [len(told) for told in self.told]
        return self.told


# One for all: making one costs more than what is sent through it.
WEB = httpx2.Client()


def publish_until_accepted(urls, text, what="events", patience=1):
    """Publish until it was accepted, at one address after the other; return (its id, statuses).

    It is sent under one key, so that it is there once however often it is sent.
    """
    key, statuses, end = str(uuid.uuid4()), [], time.monotonic() + TIMEOUT
    headers = {"Idempotency-Key": key}
    while time.monotonic() < end:
        for url in urls:
            try:
                answer = WEB.post(
                    f"{url}/{what}", json={"text": text}, headers=headers, timeout=patience
                )
            except httpx2.TransportError:
                statuses.append(0)
            else:
                statuses.append(answer.status_code)
                if answer.status_code in {201, 202}:
                    body = answer.json()
                    return body.get("id") or body["job"], statuses
        time.sleep(0.05)
    raise AssertionError(f"never accepted: {statuses}")


def ready(gateway):
    """Return a gateway once it has begun to read the log, and takes clients."""
    id, _ = publish_until_accepted([gateway.url], "ready")
    address = f"ws://127.0.0.1:{gateway.port}/events?after={id}"
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        with connect(address) as socket, suppress(ConnectionClosed):
            socket.recv(TIMEOUT)  # a heartbeat
            return gateway
    raise AssertionError("it does not read")
