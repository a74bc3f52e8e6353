"""Run one Python program at a time in a browser, with an event loop and a network.

The event loop is CPython's own BaseEventLoop. Three things differ: the loop waits for a promise of
the worker (JavaScript Promise Integration suspends the WebAssembly stack), a connection is a pair
of message streams, and a listening socket is an entry in a table.

worker.js provides `js.network`: wait, take, send, close, listening.
"""

import asyncio
import atexit
import gc
import linecache
import logging
import os
import socket
import sys
import time
import traceback
import types
import typing
import warnings
from asyncio import base_events, transports

import js
from pyodide import webloop
from pyodide.ffi import run_sync, to_js

network = js.network
pyodide_loop = asyncio.get_event_loop()
initial_modules = {}  # those that every program starts with
initial_environment = {}
initial_caches = {}  # of typing: {function: its cache}
initial_cleanups = []  # of typing: what clears a cache


class Killed(BaseException):
    """The program was killed, as by SIGKILL: no handler and no `finally` may delay its end."""


class Socket(socket.socket):
    """A socket that can be bound: Emscripten's can neither listen nor take options."""

    def listen(self, backlog=0):
        pass

    def setsockopt(self, *options):
        pass


class Transport(transports._FlowControlMixin, asyncio.Transport):
    """The server's side of a connection."""

    def __init__(self, loop, number, protocol, sockname, peername):
        super().__init__({"sockname": sockname, "peername": peername}, loop)
        self.number = number
        self._protocol = protocol
        self.closing = self.lost = self.paused = False
        self.unread = []  # what arrived while reading was paused
        self.buffered = 0  # bytes that the client has not read
        protocol.connection_made(self)

    def write(self, data):
        if data and not self.lost:
            network.send(self.number, to_js(bytes(data)))
            self.buffered += len(data)
            self._maybe_pause_protocol()

    def writelines(self, chunks):
        self.write(b"".join(chunks))

    def get_write_buffer_size(self):
        return self.buffered

    def can_write_eof(self):
        return True

    def write_eof(self):
        network.close(self.number, "eof")

    def close(self):
        if not self.closing:
            self.closing = True
            network.close(self.number, "close")
            self._loop.call_soon(self.lose, None)

    def abort(self):
        self._force_close(None)

    def _force_close(self, error):  # the name that asyncio.Server.abort_clients uses
        if not self.lost:
            self.closing = True
            network.close(self.number, "reset")
            self._loop.call_soon(self.lose, error)

    def is_closing(self):
        return self.closing

    def is_reading(self):
        return not self.paused and not self.closing

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False
        while self.unread and not self.paused:
            self.receive(*self.unread.pop(0))

    def get_protocol(self):
        return self._protocol

    def set_protocol(self, protocol):
        self._protocol = protocol

    def receive(self, kind, data):
        """Pass on data from the client, or the end of the connection."""
        if self.closing:
            return
        if kind == "reset":
            self.closing = True
            self.lose(ConnectionResetError(104, "Connection reset by peer"))
        elif self.paused:
            self.unread.append((kind, data))
        elif kind == "data":
            self._protocol.data_received(data)
        elif not self._protocol.eof_received():
            self.close()

    def acknowledge(self, count):
        """Count bytes that the client has read."""
        self.buffered -= count
        if not self.lost:
            self._maybe_resume_protocol()

    def lose(self, error):
        if not self.lost:
            self.lost = True
            self._loop.connections.pop(self.number, None)
            self._protocol.connection_lost(error)


class Loop(base_events.BaseEventLoop):
    """An event loop whose selector is the message queue of the worker."""

    def __init__(self):
        super().__init__()
        self._selector = self
        self.ports, self.connections, self.handlers = {}, {}, {}
        self.bound = []  # ports that the page does not know yet

    def select(self, timeout):
        """Wait for events, for at most `timeout` seconds."""
        if timeout != 0:  # nothing is left to do: what starts up has its signal handlers, too
            while self.bound:
                network.listening(self.bound.pop(0))
        asyncio._set_running_loop(pyodide_loop)  # the promise becomes a future of that loop
        run_sync(network.wait(-1 if timeout is None else timeout * 1000))
        asyncio._set_running_loop(self)
        if network.killed:
            raise Killed
        return network.take()

    def _process_events(self, events):
        for event in events:
            self.call_soon(self.handle, event)

    def handle(self, event):
        connection = self.connections.get(getattr(event, "id", None))
        match event.type:
            case "connect":
                self.accept(event.id, event.port)
            case "signal":
                if event.number not in self.handlers:
                    raise SystemExit(128 + event.number)
                callback, args = self.handlers[event.number]
                callback(*args)
            case "read" if connection:
                connection.acknowledge(event.count)
            case "data" if connection:
                connection.receive("data", event.bytes.to_bytes())
            case kind if connection:
                connection.receive(kind, None)

    def accept(self, number, port):
        if port not in self.ports:
            network.close(number, "refused")
            return
        # The transport is not attached to its server: as with uvloop, wait_closed ignores it.
        addresses = ("127.0.0.1", port), ("127.0.0.1", 49152 + number % 16384)
        self.connections[number] = Transport(self, number, self.ports[port](), *addresses)

    # What BaseEventLoop leaves to its subclasses

    def _start_serving(self, factory, sock, ssl, server, *rest):
        port = sock.getsockname()[1]
        if port in self.ports:
            raise OSError(98, f"Address already in use: {port}")
        self.ports[port] = factory
        self.bound.append(port)

    def _stop_serving(self, sock):
        self.ports.pop(sock.getsockname()[1], None)
        sock.close()

    def _write_to_self(self):
        pass

    def add_signal_handler(self, number, callback, *args):
        self.handlers[number] = callback, args

    def remove_signal_handler(self, number):
        return self.handlers.pop(number, None) is not None

    def run_in_executor(self, executor, function, *args):
        """Run a function at once: there are no threads."""
        future = self.create_future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class Policy(asyncio.events._BaseDefaultEventLoopPolicy):
    _loop_factory = Loop


def boot():
    """Prepare the interpreter for its first program."""
    socket.socket = Socket
    socket.SO_REUSEADDR = 2
    time.sleep = webloop._orig_sleep  # blocks, as it does elsewhere
    os.environ["SANIC_USE_UVLOOP"] = "false"
    asyncio.set_event_loop_policy(Policy())
    initial_modules.update(sys.modules)
    initial_environment.update(os.environ)
    initial_caches.update(typing._caches)
    initial_cleanups.extend(typing._cleanups)


def reset():
    """Remove what a program left in the interpreter, so that the next one starts afresh."""
    for name in sys.modules.keys() - initial_modules:
        del sys.modules[name]
        parent, _, child = name.rpartition(".")
        if parent in initial_modules:
            vars(sys.modules[parent]).pop(child, None)
    sys.modules["__main__"] = initial_modules["__main__"]
    os.environ.clear()
    os.environ.update(initial_environment)
    asyncio.set_event_loop(None)
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    for name in set(logging.root.manager.loggerDict) - {"asyncio", "concurrent.futures"}:
        del logging.root.manager.loggerDict[name]
    logging._handlers.clear()
    logging._handlerList.clear()
    for clear in typing._cleanups:  # caches that keep classes alive
        clear()
    typing._cleanups[:] = initial_cleanups  # without those of modules that are imported anew
    for function in typing._caches.keys() - initial_caches:
        del typing._caches[function]
    typing.clear_overloads()
    atexit._clear()
    warnings.onceregistry.clear()
    linecache.clearcache()
    with warnings.catch_warnings(action="ignore"):  # of coroutines that a killed program left
        gc.collect()


def run(folder, name, files, environment):
    """Run a program as `python name` in a folder would; return its exit status.

    `files`: {name: text}, the program and its modules. The folder keeps other files from one run to
    the next, as a disk does.
    """
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    for each, text in files.items():
        os.makedirs(os.path.dirname(f"{folder}/{each}"), exist_ok=True)
        with open(each, "w") as file:
            file.write(text)
    asyncio._set_running_loop(None)
    os.environ.update(environment)
    sys.path.insert(0, folder)
    sys.argv = [name]
    try:
        with warnings.catch_warnings():  # restores the filters
            return execute(f"{folder}/{name}", files[name])
    finally:
        sys.path.remove(folder)
        sys.path_importer_cache.pop(folder, None)
        asyncio._set_running_loop(None)
        reset()


def execute(path, source):
    main = types.ModuleType("__main__")
    main.__file__ = path
    sys.modules["__main__"] = main
    try:
        exec(compile(source, path, "exec"), main.__dict__)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except Killed:
        return 137
    except BaseException as error:
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename == execute.__code__.co_filename:
            trace = trace.tb_next  # the frames of this file are not the reader's
        traceback.print_exception(error.with_traceback(trace))
        return 1
    return 0
