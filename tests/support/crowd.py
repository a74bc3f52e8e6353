"""Many clients in one thread, each running the client.py of a topic."""

import asyncio
import importlib.util
import threading
import time

from .processes import EXAMPLES, TIMEOUT


def client_of(topic, file="client.py", **settings):
    """Return the module of a topic's client, with other settings."""
    path = EXAMPLES / topic / file
    spec = importlib.util.spec_from_file_location(f"{topic}_client", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in settings.items():
        assert hasattr(module, name)
        setattr(module, name, value)
    return module


class Crowd:
    """Clients that follow from an id until they receive `last`, each with a list of texts.

    `addresses`: for each client, the addresses that it knows.
    """

    def __init__(self, client, addresses, seen, last):
        self.received = [[] for _ in addresses]
        self.output = []  # what clients print: why they reconnect
        self._client, self._seen, self._last = client, seen, last
        self._thread = threading.Thread(target=self._run, args=[addresses], daemon=True)
        self._thread.start()

    def _run(self, addresses):
        asyncio.run(self._all(addresses))

    async def _all(self, addresses):
        clients = [self._one(*each) for each in zip(addresses, self.received, strict=True)]
        await asyncio.gather(*clients, return_exceptions=True)

    async def _one(self, urls, received):
        def handle(event):
            received.append(event["text"])
            return event["text"] == self._last

        def show(words, **_):
            self.output.append(words)

        await self._client.follow(urls, handle, self._seen, show)

    def wait_for(self, text):
        """Return once every client has received this."""
        end = time.monotonic() + TIMEOUT
        while not all(text in texts for texts in self.received):
            assert time.monotonic() < end, [len(texts) for texts in self.received]
            time.sleep(0.01)

    def end(self):
        """Return what each client received, when all have received the last."""
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive(), [len(texts) for texts in self.received]
        return self.received
