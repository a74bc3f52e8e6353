# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "prometheus-client==0.26.0",
#   "redis==8.1.0",
#   "sanic==25.12.1",
# ]
# ///
"""Start a whole cluster: Redis, workers, gateways and a proxy.

Each is a process of its own. One that ends is started again: kill any
of them.

- Run: `uv run cluster.py`
- or: `pip install prometheus-client==0.26.0 redis==8.1.0
  sanic==25.12.1 && python cluster.py`
- Same folder: event_log.py, gateway.py, worker.py, haproxy.cfg,
  nginx.conf
- Needs: redis-server, and haproxy (or nginx), installed
- Source: the append-only file,
  https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/
"""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

PORT = int(os.environ.get("PORT", 8000))
PROXY = os.environ.get("PROXY", "haproxy")  # or nginx
WORKERS = int(os.environ.get("WORKERS", 2))
RESTART_DELAY = 1  # s
MAX_RESTARTS = 5  # in a row, of a part that ends as soon as it starts
STOP_TIMEOUT = 10  # s, then a part is killed

FOLDER = Path(__file__).parent
CONFIGURATIONS = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}


# --8<-- [start:supervise]
async def supervise(name, command, variables, failed):
    """Run a command, again whenever it ends, until cancelled.

    If it cannot start, set the result of `failed` to a message.
    """
    env = os.environ | {k: str(v) for k, v in variables.items()}
    failures = 0
    while failures < MAX_RESTARTS:
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *command,
            env=env,
            stdout=asyncio.subprocess.DEVNULL,
            process_group=0,  # Ctrl-C reaches only cluster.py
        )
        print(f"{name:<10} process {process.pid}", flush=True)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
            except TimeoutError:
                process.kill()
                await process.wait()
            raise
        finally:
            # A master that was killed leaves workers, and their port.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        print(f"{name:<10} ended with {code}, restarting", flush=True)
        ended_at_once = time.monotonic() - started < 2 * RESTART_DELAY
        failures = failures + 1 if ended_at_once else 0
        await asyncio.sleep(RESTART_DELAY)
    if not failed.done():
        failed.set_result(f"{name} ends as soon as it is started")
# --8<-- [end:supervise]


# --8<-- [start:start]
async def start_all(parts, failed, folder, redis, proxy):
    """Start the parts in order; each waits for the one before it."""

    async def start(name, command, port=None, **variables):
        supervisor = supervise(name, command, variables, failed)
        parts.append(asyncio.create_task(supervisor))
        if port:
            await wait_for_port(port)

    port = free_port()
    log = f"redis://127.0.0.1:{port}"
    options = f"--port {port} --bind 127.0.0.1 --dir {folder}"
    # An event is on the disk before its publisher gets a response.
    options += " --appendonly yes --appendfsync always"
    await start("redis", [redis, *options.split()], port)
    worker = [sys.executable, FOLDER / "worker.py"]
    for number in range(1, WORKERS + 1):
        name = f"worker {number}"
        await start(name, worker, REDIS=log, WORKER_NAME=name)
    gateway = [sys.executable, FOLDER / "gateway.py"]
    command, ports = configure_proxy(folder, proxy)
    for number, port in enumerate(ports, 1):
        name = f"gateway {number}"
        await start(name, gateway, port, REDIS=log, PORT=port)
    await start(PROXY, command, PORT)
    event_id = await asyncio.to_thread(publish, "the cluster is up")
    print(f"published a first event, {event_id}")
    url = f"http://127.0.0.1:{PORT}"
    print(f"server listening on {url}  (Ctrl-C stops)", flush=True)
# --8<-- [end:start]


def configure_proxy(folder, proxy):
    """Write the configuration with ports that are free.

    Return the command that starts the proxy, and the gateways' ports.
    """
    name = CONFIGURATIONS[PROXY]
    ports = {"8000": PORT}

    def replace(found):
        if found[0] not in ports:
            ports[found[0]] = free_port()
        return str(ports[found[0]])

    text = (FOLDER / name).read_text()
    text = re.sub(r"(?<=127\.0\.0\.1:)\d+", replace, text)
    (Path(folder) / name).write_text(text)
    if PROXY == "nginx":
        command = [proxy, "-p", folder, "-e", "stderr", "-c", name]
    else:
        command = [proxy, "-f", f"{folder}/{name}"]
    return command, list(ports.values())[1:]


def publish(text):
    """Publish an event as any client would; return its id."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/events",
        json.dumps({"text": text}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)["id"]


def find_program(name):
    """Return the path of a program; exit with one line without it."""
    # Debian installs servers where the PATH of a user does not lead.
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    if found := shutil.which(name, path=path):
        return found
    sys.exit(f"{name} is missing: sudo apt-get install {name}")


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


# --8<-- [start:main]
async def main(redis, proxy):
    """Start everything; stop it all on a signal."""
    stopping = asyncio.Event()
    # SIGHUP: the terminal was closed.
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        asyncio.get_running_loop().add_signal_handler(
            number, stopping.set
        )
    parts, failed = [], asyncio.get_running_loop().create_future()
    with TemporaryDirectory() as folder:
        start = start_all(parts, failed, folder, redis, proxy)
        starting = asyncio.create_task(start)
        ending = [asyncio.create_task(stopping.wait()), failed]
        tasks = [starting, *ending]
        try:
            await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
            if starting.done():
                starting.result()  # raises what failed
                tasks.remove(starting)
                await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
        finally:
            # The proxy first, Redis last.
            for task in starting, ending[0], *reversed(parts):
                task.cancel()
                await asyncio.wait([task])
    if failed.done():
        sys.exit(failed.result())
# --8<-- [end:main]


if __name__ == "__main__":
    if PROXY not in CONFIGURATIONS:
        sys.exit(f"PROXY is haproxy or nginx, not {PROXY}")
    programs = find_program("redis-server"), find_program(PROXY)
    try:
        socket.create_server(("127.0.0.1", PORT)).close()
    except OSError:
        sys.exit(f"port {PORT} is in use: set PORT to another one")
    asyncio.run(main(*programs))
