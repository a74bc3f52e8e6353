"""Run a coroutine in a thread of its own."""

import asyncio
from concurrent.futures import ThreadPoolExecutor


def run_in_thread(coroutine):
    """Run a coroutine and return its result; a browser's proofs keep a loop in the main thread."""
    with ThreadPoolExecutor(1) as beside:
        return beside.submit(asyncio.run, coroutine).result()
