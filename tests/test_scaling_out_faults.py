"""Faults: a part is killed, frozen or restarted, and no event is lost, reordered or duplicated."""

import re
import signal
import socket
import threading
import time
from contextlib import ExitStack, suppress

import pytest
from redis import Redis

from .support.crowd import Crowd, client_of
from .support.events import WEB, publish_until_accepted, receive_texts
from .support.processes import TIMEOUT, wait_until
from .support.sockets import connect

TOPIC = "scaling_out"
GATEWAY = {"HEARTBEAT_INTERVAL": 0.3, "RETRY_INTERVAL": 0.1}
NUMBERS = [str(number) for number in range(1, 61)]


class Cluster:
    """Redis, two gateways, and both proxies in front of them."""

    def __init__(self, start, assembled, port):
        start_proxy, start_redis = assembled
        self.redis = start_redis("--appendfsync", "always")
        self._stop_at_end, self._start = start_redis.stop_at_end, start
        self.place = GATEWAY | {"REDIS": f"redis://127.0.0.1:{self.redis.port}"}
        self.gateways = [start(f"{TOPIC}/gateway.py", **self.place) for _ in range(2)]
        ports = {8001: self.gateways[0].port, 8002: self.gateways[1].port}
        quick = {"inter 2s fall 5": "inter 200ms fall 3"}
        self.haproxy = start_proxy(f"{TOPIC}/haproxy.cfg", {8000: port()} | ports, **quick)
        quick = {"proxy_read_timeout 45s": "proxy_read_timeout 1s"}
        self.nginx = start_proxy(f"{TOPIC}/nginx.conf", {8000: port()} | ports, **quick)
        self.urls = [self.haproxy.url, self.nginx.url]

    def restart_gateway(self, number):
        """Start a gateway on the port of the one that was stopped."""
        port = self.gateways[number].port
        self.gateways[number] = self._start(f"{TOPIC}/gateway.py", PORT=port, **self.place)

    def restart(self, name):
        """Start a part that was stopped: redis, haproxy or nginx."""
        setattr(self, name, self._stop_at_end(getattr(self, name).again()))

    def crowd(self, last=NUMBERS[-1], **settings):
        """Return twenty clients that have just connected, half of them through each proxy."""
        seen, _ = publish_until_accepted(self.urls, "before")
        client = client_of(TOPIC, **({"BASE_DELAY": 0.1, "MAX_FAILURES": 10**6} | settings))
        sockets = [url.replace("http", "ws") for url in self.urls]
        crowd = Crowd(client, [[sockets[number % 2]] for number in range(20)], seen, last)
        publish_until_accepted(self.urls, "begin")
        crowd.wait_for("begin")
        return crowd

    def publish(self, texts):
        """Publish texts, half of them through each proxy."""
        for number, text in enumerate(texts):
            publish_until_accepted(self.urls[:: 1 if number % 2 else -1], text)


@pytest.fixture(scope="module")
def cluster(start_shared, assembled_shared, port):
    """Return the cluster of all faults; each test restarts what it stops."""
    return Cluster(start_shared, assembled_shared, port)


def assert_all_received(crowd):
    """Check that each of twenty clients received all sixty events, in order, and each once."""
    received = crowd.end()
    assert len(received) == 20
    assert all(texts == ["begin", *NUMBERS] for texts in received), received


def test_a_gateway_is_killed(cluster):
    """When a gateway is killed with SIGKILL while sixty events are published, each of twenty
    clients receives all of them, in order and once, from the other gateway."""
    crowd = cluster.crowd()
    cluster.publish(NUMBERS[:20])
    cluster.gateways[0].stop(signal.SIGKILL)
    cluster.publish(NUMBERS[20:])
    assert_all_received(crowd)
    assert "closed with 1006, reconnecting" in crowd.output
    cluster.restart_gateway(0)


def test_all_gateways_restart(cluster):
    """When all gateways restart at once, the clients are closed with 1012 and reconnect, and each
    receives all sixty events, in order and once."""
    crowd = cluster.crowd()
    cluster.publish(NUMBERS[:20])
    for number, gateway in enumerate(cluster.gateways):
        assert gateway.stop() == 0
        cluster.restart_gateway(number)
    cluster.publish(NUMBERS[20:])
    assert_all_received(crowd)
    assert crowd.output.count("closed with 1012, reconnecting") >= 20


# Before Redis is killed: a connection of a gateway to it that died then fails one command later.
@pytest.mark.parametrize(
    ("name", "number"), [("haproxy", signal.SIGUSR2), ("nginx", signal.SIGHUP)]
)
def test_a_proxy_is_reloaded(cluster, name, number):
    """When a proxy reloads its configuration, a new process serves new clients and the old one
    keeps its clients: none is disconnected, and each receives all sixty events, in order and
    once."""
    crowd = cluster.crowd()
    proxy = getattr(cluster, name)
    before = proxy.children()
    cluster.publish(NUMBERS[:20])
    proxy.process.send_signal(number)
    wait_until(lambda: proxy.children() - before and proxy.children() & before)
    cluster.publish(NUMBERS[20:])
    assert_all_received(crowd)
    assert crowd.output == []


def test_redis_is_killed(cluster):
    """When Redis is killed with SIGKILL and restarted with its append-only file, publishers get 503
    in the meantime, no client is disconnected, and each receives all sixty events, in order and
    once."""
    crowd = cluster.crowd()
    cluster.publish(NUMBERS[:20])
    crowd.wait_for(NUMBERS[19])
    cluster.redis.stop(signal.SIGKILL)
    for url in cluster.urls:
        response = WEB.post(f"{url}/events", json={"text": "rejected"}, timeout=TIMEOUT)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    cluster.restart("redis")
    cluster.publish(NUMBERS[20:])
    assert_all_received(crowd)
    assert crowd.output == []


def test_a_gateway_is_frozen(cluster):
    """When a gateway is frozen with SIGSTOP, HAProxy notices by its health check and nginx by its
    read timeout; the clients resume at the other gateway, and each receives all sixty events, in
    order and once. After SIGCONT the gateway serves again."""
    crowd = cluster.crowd()
    cluster.publish(NUMBERS[:20])
    cluster.gateways[0].send(signal.SIGSTOP)
    cluster.publish(NUMBERS[20:])
    assert_all_received(crowd)
    cluster.gateways[0].send(signal.SIGCONT)
    publish_until_accepted([cluster.gateways[0].url], "thawed", timeout=TIMEOUT)


def test_a_short_stall_disconnects_no_client(cluster, start_proxy, port):
    """A gateway that is frozen for three seconds keeps its clients, with the health checks of
    haproxy.cfg: no client is disconnected, and each receives the event that follows."""
    ports = {8001: cluster.gateways[0].port, 8002: port()}
    proxy = start_proxy(f"{TOPIC}/haproxy.cfg", {8000: port()} | ports)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(connect(f"ws://127.0.0.1:{proxy.port}/events")) for _ in range(5)
        ]
        for client in clients:
            client.recv(TIMEOUT)
        cluster.gateways[0].send(signal.SIGSTOP)
        time.sleep(3)
        cluster.gateways[0].send(signal.SIGCONT)
        publish_until_accepted([proxy.url], "after the stall", timeout=TIMEOUT)
        assert [receive_texts(client, 1) for client in clients] == [["after the stall"]] * 5


@pytest.mark.parametrize("name", ["haproxy", "nginx"])
def test_a_proxy_is_restarted(cluster, name):
    """When a proxy is restarted, its clients reconnect through it, and each receives all sixty
    events, in order and once."""
    crowd = cluster.crowd()
    cluster.publish(NUMBERS[:20])
    getattr(cluster, name).stop()
    cluster.publish(NUMBERS[20:40])
    cluster.restart(name)
    cluster.publish(NUMBERS[40:])
    assert_all_received(crowd)
    assert len(crowd.output) >= 10


# Workers


@pytest.fixture
def worker(cluster, start):
    """Start a worker of the cluster: worker(JOB_SECONDS=0)."""
    return lambda **options: start(
        f"{TOPIC}/worker.py", **(cluster.place | {"MIN_IDLE": 0.5} | options)
    )


def test_a_worker_is_killed(cluster, worker):
    """When a worker is killed during a job, another one does that job, and the result of each of
    six jobs is published once."""
    jobs = [f"job {number}" for number in range(6)]
    crowd = cluster.crowd(last="all ended")
    publish_until_accepted(cluster.urls, jobs[0], "jobs")
    victim = worker(JOB_SECONDS=TIMEOUT).wait_for(f"started {jobs[0]}")
    victim.stop(signal.SIGKILL)
    for job in jobs[1:]:
        publish_until_accepted(cluster.urls, job, "jobs")
    other = worker(JOB_SECONDS=0).wait_for(f"finished {jobs[0]}").wait_for(f"finished {jobs[5]}")
    publish_until_accepted(cluster.urls, "all ended")
    for texts in crowd.end():
        assert sorted(texts[1:-1]) == [f"{job}: done" for job in jobs]
    assert other.output.count("started") == len(jobs)


def test_a_worker_is_frozen(cluster, worker):
    """When a worker is frozen during a job and thawed after another one has done it, the job is
    done twice, and its result is published once."""
    crowd = cluster.crowd(last="both ended")
    publish_until_accepted(cluster.urls, "twice", "jobs")
    first = worker(JOB_SECONDS=1).wait_for("started twice")
    first.send(signal.SIGSTOP)
    worker(JOB_SECONDS=0).wait_for("finished twice")
    first.send(signal.SIGCONT)
    first.wait_for("finished twice")
    publish_until_accepted(cluster.urls, "both ended")
    assert all(texts == ["begin", "twice: done", "both ended"] for texts in crowd.end())


def test_a_job_that_kills_workers_fails(cluster, worker):
    """A job that three workers have started and not finished is not run again: its result is
    `failed`."""
    crowd = cluster.crowd(last="deadly: failed")
    publish_until_accepted(cluster.urls, "deadly", "jobs")
    for _ in range(3):
        victim = worker(JOB_SECONDS=TIMEOUT, MIN_IDLE=0.01).wait_for("started deadly")
        victim.stop(signal.SIGKILL)
    worker(JOB_SECONDS=TIMEOUT, MIN_IDLE=0.01).wait_for("finished deadly")
    assert all(texts == ["begin", "deadly: failed"] for texts in crowd.end())


def test_a_stopping_worker_finishes_its_job(cluster, worker):
    """A worker that receives SIGTERM finishes its job and takes no other."""
    for job in "one", "two":
        publish_until_accepted(cluster.urls, job, "jobs")
    stopped = worker(JOB_SECONDS=1).wait_for("started one")
    assert stopped.stop() == 0
    assert "finished one" in stopped.output
    assert "started two" not in stopped.output
    worker(JOB_SECONDS=0).wait_for("finished two")


def test_a_worker_that_is_restarted_is_the_same_consumer(cluster, worker):
    """A worker that is killed and restarted with its name leaves no dead consumer in the group."""

    def consumers():
        with Redis(port=cluster.redis.port) as redis:
            return [each["name"] for each in redis.xinfo_consumers("jobs", "workers")]

    for number in range(3):
        publish_until_accepted(cluster.urls, f"{number}", "jobs")
        restarted = worker(JOB_SECONDS=0, WORKER_NAME="the same")
        restarted.wait_for(f"finished {number}").stop(signal.SIGKILL)
    assert consumers().count(b"the same") == 1


def test_a_worker_reports_an_old_redis(cluster, run, port):
    """A worker whose Redis is older than 6.2 ends with one line."""
    responses = {
        b"HELLO": b"%1\r\n+proto\r\n:3\r\n",
        b"CLIENT": b"+OK\r\n",
        b"INFO": b"$19\r\nredis_version:6.0.9\r\n",
    }

    def respond(client):
        with client, suppress(OSError):
            while data := client.recv(65536):
                for command in re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)\r\n", data):
                    client.sendall(responses[command])

    with socket.create_server(("127.0.0.1", number := port())) as server:

        def serve():
            with suppress(OSError):
                while True:
                    respond(server.accept()[0])

        threading.Thread(target=serve, daemon=True).start()
        result = run(f"{TOPIC}/worker.py", REDIS=f"redis://127.0.0.1:{number}")
        server.shutdown(socket.SHUT_RDWR)
    assert result.returncode == 1
    assert result.stderr == "Redis 6.2 or later is needed, and this is 6.0.9\n"


def test_a_worker_waits_for_redis(cluster, worker):
    """A worker waits while Redis is unavailable, and takes the next job after that."""
    waiting = worker(JOB_SECONDS=0)
    cluster.redis.stop(signal.SIGKILL)
    cluster.restart("redis")
    publish_until_accepted(cluster.urls, "later", "jobs")
    waiting.wait_for("finished later")
