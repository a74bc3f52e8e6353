# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "redis==8.1.0",
#   "sanic==25.12.1",
#   "taskiq==0.13.0",
#   "taskiq-redis==1.2.4",
# ]
# ///
"""Start Redis, a job server and workers; Ctrl-C stops them all.

Taskiq starts a worker again that has crashed: kill any of them.

- Run: `uv run run_all.py`
- or: `pip install redis==8.1.0 sanic==25.12.1 taskiq==0.13.0
  taskiq-redis==1.2.4 && python run_all.py`
- Same folder: redis_server.py, tasks.py
- Needs: redis-server 7.0 or later, installed
- Source: the append-only file,
  https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/
"""

import asyncio
import os
import shutil
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

PORT = int(os.environ.get("PORT", 8000))
WORKERS = os.environ.get("WORKERS", "2")
DATA = os.environ.get("DATA", "redis-data")  # where the jobs stay
STOP_TIMEOUT = 10  # s, then a part is killed
FOLDER = Path(__file__).parent

# --8<-- [start:commands]
# A job is on the disk before its client gets a token.
REDIS = [
    *("redis-server", "--bind", "127.0.0.1", "--loglevel", "warning"),
    *("--dir", DATA, "--save", ""),
    *("--appendonly", "yes", "--appendfsync", "always"),
]
SERVER = [sys.executable, FOLDER / "redis_server.py"]
# A worker does one job at a time, and acknowledges it when its result
# is stored: a worker that crashes before leaves the job to others.
WORKER = [
    *(sys.executable, "-m", "taskiq", "worker", "tasks:broker"),
    *("--app-dir", FOLDER, "--workers", WORKERS),
    *("--max-async-tasks", "1", "--ack-type", "when_saved"),
    *("--log-level", "WARNING"),
]
# --8<-- [end:commands]


# --8<-- [start:main]
async def main():
    """Start the parts in order; stop them if one ends, or a signal."""
    stopping = asyncio.Event()
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        asyncio.get_running_loop().add_signal_handler(
            number, stopping.set
        )
    parts = []

    async def start(*command):
        env = os.environ | {"REDIS": f"redis://127.0.0.1:{port}"}
        process = await asyncio.create_subprocess_exec(
            *command,
            env=env,
            process_group=0,  # Ctrl-C reaches only this program
        )
        parts.append(process)

    port = free_port()
    try:
        await start(*REDIS, "--port", str(port))
        await wait_for_port(port)
        await start(*WORKER)
        await start(*SERVER)
        ends = [asyncio.create_task(part.wait()) for part in parts]
        ends.append(asyncio.create_task(stopping.wait()))
        await asyncio.wait(ends, return_when="FIRST_COMPLETED")
    finally:
        for part in reversed(parts):  # Redis last
            await stop(part)
    if not stopping.is_set():
        sys.exit("a part has ended: see its message")


async def stop(process):
    """Stop a part with all its processes."""
    with suppress(ProcessLookupError):
        process.terminate()
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
# --8<-- [end:main]


def free_port():
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


async def wait_for_port(port):
    """Return once a connection to this port is accepted."""
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    if not shutil.which("redis-server"):
        sys.exit("missing: sudo apt-get install redis-server")
    try:
        socket.create_server(("127.0.0.1", PORT)).close()
    except OSError:
        sys.exit(f"port {PORT} is in use: set PORT to another one")
    os.makedirs(DATA, exist_ok=True)
    asyncio.run(main())
