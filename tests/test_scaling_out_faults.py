"""Whatever is killed, frozen or restarted: none is lost, none out of order, none twice."""

import signal
from pathlib import Path

import pytest

from .support.crowd import WEB, Crowd, client_of, publish_until_accepted
from .support.processes import TIMEOUT, wait_until

ROOM = "scaling_out"
GATEWAY = {"ROLE": "gateway", "HEARTBEAT": 0.3, "RETRY": 0.1}
NUMBERS = [str(number) for number in range(1, 61)]


class Cluster:
    """Redis, two gateways, and both proxies in front of the same two."""

    def __init__(self, start, assembled, port):
        start_proxy, start_redis = assembled
        self.redis = start_redis("--appendfsync", "always")
        self._kept, self._start = start_redis.stop_at_end, start
        self.place = GATEWAY | {"REDIS": f"redis://127.0.0.1:{self.redis.port}"}
        self.gateways = [start(f"{ROOM}/cluster.py", **self.place) for _ in range(2)]
        ports = {8001: self.gateways[0].port, 8002: self.gateways[1].port}
        quick = {"inter 1s": "inter 200ms"}
        self.haproxy = start_proxy(f"{ROOM}/haproxy.cfg", {8000: port()} | ports, **quick)
        quick = {"proxy_read_timeout 20s": "proxy_read_timeout 1s"}
        self.nginx = start_proxy(f"{ROOM}/nginx.conf", {8000: port()} | ports, **quick)
        self.urls = [self.haproxy.url, self.nginx.url]

    def gateway_again(self, number):
        """Start a gateway on the port of the one that was there."""
        port = self.gateways[number].port
        self.gateways[number] = self._start(f"{ROOM}/cluster.py", PORT=port, **self.place)

    def again(self, name):
        """Start a part again that was stopped: redis, haproxy or nginx."""
        setattr(self, name, self._kept(getattr(self, name).again()))

    def crowd(self, last=NUMBERS[-1], **settings):
        """Return twenty clients that have just come, half of them through each proxy."""
        seen, _ = publish_until_accepted(self.urls, "before")
        client = client_of(ROOM, **({"BACKOFF": 0.1, "TRIES": 10**6} | settings))
        sockets = [url.replace("http", "ws") for url in self.urls]
        crowd = Crowd(client, [[sockets[number % 2]] for number in range(20)], seen, last)
        publish_until_accepted(self.urls, "begin")
        crowd.wait_for("begin")
        return crowd

    def publish(self, texts):
        """Publish texts, half of them through each proxy; return the answers that were no 201."""
        refused = []
        for number, text in enumerate(texts):
            _, statuses = publish_until_accepted(self.urls[:: 1 if number % 2 else -1], text)
            refused += statuses[:-1]
        return refused


@pytest.fixture(scope="module")
def cluster(start_shared, assembled_shared, port):
    """Return the cluster of all faults; what one stops, it starts again."""
    return Cluster(start_shared, assembled_shared, port)


def exact(crowd):
    """Check that each of twenty was told all sixty, in order, and each once."""
    told = crowd.end()
    assert len(told) == 20
    assert all(texts == ["begin", *NUMBERS] for texts in told), told


def children(program):
    """Return the processes that a process has started and that still run."""
    number = program.process.pid
    return set(Path(f"/proc/{number}/task/{number}/children").read_text().split())


def test_a_gateway_is_killed(cluster):
    """A gateway is killed with SIGKILL while sixty events are published: each of twenty clients
    gets all of them, in order, and once, at the other gateway."""
    crowd = cluster.crowd()
    cluster.publish(NUMBERS[:20])
    cluster.gateways[0].stop(signal.SIGKILL)
    cluster.publish(NUMBERS[20:])
    exact(crowd)
    assert "closed with 1006; coming back" in crowd.said
    cluster.gateway_again(0)


def test_all_gateways_restart(cluster):
    """All gateways are restarted at once: the clients are told 1012, come back when they can, and
    each gets all sixty events, in order, and once."""
    crowd = cluster.crowd()
    cluster.publish(NUMBERS[:20])
    for number, gateway in enumerate(cluster.gateways):
        assert gateway.stop() == 0
        cluster.gateway_again(number)
    cluster.publish(NUMBERS[20:])
    exact(crowd)
    assert crowd.said.count("closed with 1012; coming back") >= 20


# Before Redis is killed: a connection of a gateway to it that died then fails one command later.
@pytest.mark.parametrize(
    ("name", "number"), [("haproxy", signal.SIGUSR2), ("nginx", signal.SIGHUP)]
)
def test_a_proxy_is_reloaded(cluster, name, number):
    """A proxy is told to reload its configuration: a new process serves who comes, the old one
    keeps its clients, none of which is cut off, and each gets all sixty events, in order, and
    once."""
    crowd = cluster.crowd()
    proxy = getattr(cluster, name)
    before = children(proxy)
    cluster.publish(NUMBERS[:20])
    proxy.process.send_signal(number)
    wait_until(lambda: children(proxy) - before and children(proxy) & before)
    cluster.publish(NUMBERS[20:])
    exact(crowd)
    assert crowd.said == []


def test_redis_is_killed(cluster):
    """Redis is killed with SIGKILL and comes back with its append-only file: publishers are told
    503 meanwhile, no client is cut off, and each gets all sixty events, in order, and once."""
    crowd = cluster.crowd()
    cluster.publish(NUMBERS[:20])
    crowd.wait_for(NUMBERS[19])
    cluster.redis.stop(signal.SIGKILL)
    for url in cluster.urls:
        answer = WEB.post(f"{url}/events", json={"text": "in vain"}, timeout=TIMEOUT)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    cluster.again("redis")
    cluster.publish(NUMBERS[20:])
    exact(crowd)
    assert crowd.said == []


def test_a_gateway_is_frozen(cluster):
    """A gateway is frozen with SIGSTOP: HAProxy notices by its health check and nginx by silence,
    the clients go on at the other one, and each gets all sixty events, in order, and once; thawed,
    it serves again."""
    crowd = cluster.crowd()
    cluster.publish(NUMBERS[:20])
    cluster.gateways[0].send(signal.SIGSTOP)
    cluster.publish(NUMBERS[20:])
    exact(crowd)
    cluster.gateways[0].send(signal.SIGCONT)
    publish_until_accepted([cluster.gateways[0].url], "thawed", patience=TIMEOUT)


@pytest.mark.parametrize("name", ["haproxy", "nginx"])
def test_a_proxy_is_restarted(cluster, name):
    """A proxy is stopped and started again: its clients come back through it, and each gets all
    sixty events, in order, and once."""
    crowd = cluster.crowd()
    cluster.publish(NUMBERS[:20])
    getattr(cluster, name).stop()
    cluster.publish(NUMBERS[20:40])
    cluster.again(name)
    cluster.publish(NUMBERS[40:])
    exact(crowd)
    assert len(crowd.said) >= 10


# Work


@pytest.fixture
def worker(cluster, start):
    """Start a worker of the cluster: worker(WORK=0)."""
    return lambda **options: start(
        f"{ROOM}/cluster.py", **(cluster.place | {"ROLE": "worker", "IDLE": 0.5} | options)
    )


def test_a_worker_is_killed(cluster, worker):
    """A worker is killed with a job in hand: another one does that job, and the end of each of
    six jobs comes once."""
    jobs = [f"job {number}" for number in range(6)]
    crowd = cluster.crowd(last="all ended")
    publish_until_accepted(cluster.urls, jobs[0], "jobs")
    victim = worker(WORK=TIMEOUT).wait_for(f"took {jobs[0]}")
    victim.stop(signal.SIGKILL)
    for job in jobs[1:]:
        publish_until_accepted(cluster.urls, job, "jobs")
    other = worker(WORK=0).wait_for(f"ended {jobs[0]}").wait_for(f"ended {jobs[5]}")
    publish_until_accepted(cluster.urls, "all ended")
    for told in crowd.end():
        assert sorted(told[1:-1]) == [f"{job}: done" for job in jobs]
    assert other.output.count("took") == len(jobs)


def test_a_worker_is_frozen(cluster, worker):
    """A worker is frozen with a job in hand, another one does it, and the first, thawed, ends it
    as well: done twice, the job has one result."""
    crowd = cluster.crowd(last="both ended")
    publish_until_accepted(cluster.urls, "twice", "jobs")
    first = worker(WORK=1).wait_for("took twice")
    first.send(signal.SIGSTOP)
    worker(WORK=0).wait_for("ended twice")
    first.send(signal.SIGCONT)
    first.wait_for("ended twice")
    publish_until_accepted(cluster.urls, "both ended")
    assert all(told == ["begin", "twice: done", "both ended"] for told in crowd.end())


def test_a_job_that_kills_workers_is_given_up(cluster, worker):
    """A job that three workers have taken and not ended is given up, and that is its result."""
    crowd = cluster.crowd(last="deadly: given up")
    publish_until_accepted(cluster.urls, "deadly", "jobs")
    for _ in range(3):
        victim = worker(WORK=TIMEOUT, IDLE=0.01).wait_for("took deadly")
        victim.stop(signal.SIGKILL)
    worker(WORK=TIMEOUT, IDLE=0.01).wait_for("ended deadly")
    assert all(told == ["begin", "deadly: given up"] for told in crowd.end())


def test_a_worker_that_is_told_to_stop_ends_its_job(cluster, worker):
    """A worker that is told to stop ends the job that it has in hand, and takes no other."""
    for job in "one", "two":
        publish_until_accepted(cluster.urls, job, "jobs")
    stopped = worker(WORK=1).wait_for("took one")
    assert stopped.stop() == 0
    assert "ended one" in stopped.output
    assert "took two" not in stopped.output
    worker(WORK=0).wait_for("ended two")


def test_workers_outlive_redis(cluster, worker):
    """A worker that finds Redis away waits for it, and takes the next job when it is back."""
    lasting = worker(WORK=0)
    cluster.redis.stop(signal.SIGKILL)
    cluster.again("redis")
    publish_until_accepted(cluster.urls, "later", "jobs")
    lasting.wait_for("ended later")
