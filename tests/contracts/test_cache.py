"""A cache keeps its promises on each kind of server, and does without one that is away."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowq import Flowq, cache
from flowq.cache import Cache
from flowq.cache.local import Local
from flowq.errors import EncodeError, ImproperlyConfigured
from tests.started import free_port

REDIS = os.environ.get("FLOWQ_TEST_REDIS", "redis://127.0.0.1:6379/9")


def absent(reason: str) -> Any:
    """Skip; fail where every server has to be there."""
    return pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


class Memcached:
    """A server that can be stopped and started again."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"memcached://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        program = shutil.which("memcached")
        if program is None:
            absent("memcached is not installed")
        user = ["-u", "nobody"] if os.getuid() == 0 else []
        self.process = subprocess.Popen(
            [str(program), "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-m", "64", *user]
        )
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                threading.Event().wait(0.05)
        raise AssertionError("memcached does not start")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def memcached() -> Iterator[Memcached]:
    made = Memcached()
    yield made
    made.stop()


@pytest.fixture
def mortal() -> Iterator[Memcached]:
    """One more, for tests that stop it."""
    made = Memcached()
    yield made
    made.stop()


def redis_url() -> str:
    import redis

    client = redis.Redis.from_url(REDIS)
    try:
        client.ping()
    except redis.RedisError as problem:
        absent(f"no Redis at {REDIS}: {problem}")
    finally:
        client.close()
    return REDIS


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis", marks=pytest.mark.services),
        pytest.param("memcached", marks=pytest.mark.services),
        pytest.param("two memcached", marks=pytest.mark.services),
    ]
)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a server of each kind."""
    if request.param == "memory":
        yield "memory://"
    elif request.param == "redis":
        yield redis_url()
    elif request.param == "memcached":
        yield request.getfixturevalue("memcached").url
    else:
        one, other = request.getfixturevalue("memcached"), request.getfixturevalue("mortal")
        yield f"{one.url},127.0.0.1:{other.port}"


Make = Callable[..., Cache]


@pytest.fixture
def make(url: str) -> Iterator[Make]:
    """Makes caches that stand for processes: one prefix, nothing else in common."""
    prefix = f"t{secrets.token_hex(6)}:"
    made: list[Cache] = []

    def one(**options: Any) -> Cache:
        made.append(Cache("test", url, **{"prefix": prefix, **options}))
        return made[-1]

    yield one
    made[0].clear()
    for each in made:
        each.close()


def shared(made: Cache) -> None:
    """End a test that needs a server."""
    if made.url == "memory://":
        pytest.skip("memory:// is of one process")


VALUES = [
    *(None, True, 0, -5, 2**70, 1.5, "", "text \u2026", b"", b"\x00\xff" * 100),
    *([1, [2, None]], {"a": {"b": [b"bytes"]}}),
]


@pytest.mark.parametrize("local", [0, 1000])
def test_values_come_back(make: Make, local: int) -> None:
    one = make(local_size=local)
    if local == 0:
        shared(one)
    for number, value in enumerate(VALUES):
        one.set(f"k{number}", value)
        assert one.get(f"k{number}") == value
        assert type(one.get(f"k{number}")) is type(value)
    keys = [f"k{n}" for n in range(len(VALUES))]
    assert one.get_many([*keys, "none"]) == dict(zip(keys, VALUES))


def test_what_is_not_there(make: Make) -> None:
    one = make()
    assert one.get("none") is None
    assert one.get("none", 5) == 5
    assert one.get_many(["none", "nothing"]) == {}
    one.delete("none")


def test_values_are_copies(make: Make) -> None:
    one = make()
    value = [1]
    one.set("k", value)
    value.append(2)
    one.get("k").append(3)
    assert one.get("k") == [1]


def test_delete_and_clear(make: Make, url: str) -> None:
    one, foreign = make(), Cache("other", url, prefix=f"o{secrets.token_hex(6)}:")
    foreign.set("a", 7)
    one.set_many({"a": 1, "b": 2, "c": 3})
    one.delete("a")
    assert one.get_many("abc") == {"b": 2, "c": 3}
    one.clear()
    assert one.get_many("abc") == {}
    one.set("a", 4)
    assert one.get("a") == 4
    assert foreign.get("a") == 7
    foreign.clear()
    foreign.close()


def test_another_process_sees_it(make: Make) -> None:
    one, other = make(), make()
    shared(one)
    one.set_many({"a": 1, "b": b"two"})
    assert other.get("a") == 1
    assert other.get_many(["a", "b"]) == {"a": 1, "b": b"two"}
    other.delete("a")
    assert other.get("a") is None
    assert one.get("a") == 1  # its own copy, until local_ttl
    assert make(local_size=0).get("a") is None


def test_another_process_clears(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowq.cache.servers.MemcachedServer.LOOK_EVERY", 0.0)
    one, other = make(local_size=0), make(local_size=0)
    shared(one)
    one.set("a", 1)
    other.clear()
    assert one.get("a") is None
    one.set("a", 2)
    assert other.get("a") == 2


@pytest.mark.parametrize("size", [0, 10])
def test_values_expire(make: Make, size: int) -> None:
    one = make(local_size=size)
    if size == 0:
        shared(one)
    one.set("short", 1, ttl=0.5)
    one.set("long", 2, ttl=3600)
    one.set("month", 3, ttl=40 * 24 * 3600)
    one.set("ever", 4, ttl=None)
    one.set("gone", 5)
    one.set("gone", 5, ttl=0)
    assert one.get_many(["long", "month", "ever", "gone"]) == {"long": 2, "month": 3, "ever": 4}
    pause = threading.Event()
    for _ in range(60):  # memcached counts whole seconds
        if one.get("short") is None:
            break
        pause.wait(0.05)
    assert one.get("short") is None
    assert one.get("long") == 2


def test_what_another_process_read_expires_there_too(make: Make) -> None:
    one, other = make(), make()
    shared(one)
    one.set("k", 1, ttl=0.4)
    assert other.get("k") == 1
    pause = threading.Event()
    for _ in range(60):
        if other.get("k") is None:
            return
        pause.wait(0.05)
    raise AssertionError("it is kept for longer than its time")


def test_the_ttl_of_the_cache(make: Make) -> None:
    one = make(ttl=0)
    one.set("a", 1)
    assert one.get("a") is None
    one.set("a", 1, ttl=60)
    assert one.get("a") == 1


@pytest.mark.parametrize("key", ["", "with space", "a\nb", "\u00e4" * 10, "x" * 1000, "x*?[y]\\"])
def test_any_text_is_a_key(make: Make, key: str) -> None:
    one, other = make(), make()
    one.set_many({key: 1, key + "'": 2})
    assert one.get_many([key, key + "'"]) == {key: 1, key + "'": 2}
    assert other.get(key) == (None if other.url == "memory://" else 1)
    one.delete(key)
    assert make().get_many([key, key + "'"]) in ({key + "'": 2}, {})


def test_get_or_set(make: Make) -> None:
    one, calls = make(), []

    def fetch() -> str:
        calls.append(1)
        return "value"

    assert [one.get_or_set("k", fetch) for _ in range(3)] == ["value"] * 3
    assert len(calls) == 1
    assert one.get_or_set("none", lambda: None) is None
    assert one.get_or_set("none", fetch) is None  # None is a value
    with pytest.raises(ZeroDivisionError):
        one.get_or_set("bad", lambda: 1 / 0)
    assert one.get_or_set("bad", fetch, 60) == "value"


def test_threads_make_a_value_once(make: Make) -> None:
    one, calls, together = make(), [], threading.Barrier(8)

    def fetch() -> int:
        calls.append(1)
        threading.Event().wait(0.05)
        return 3

    found: list[int] = []

    def ask() -> None:
        together.wait()
        found.append(one.get_or_set("k", fetch))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [3] * 8
    assert len(calls) == 1


def test_many_threads_at_once(make: Make) -> None:
    one, wrong = make(local_size=5), []

    def work(number: int) -> None:
        for turn in range(50):
            key = f"{number}-{turn % 7}"
            one.set(key, [number, turn])
            if one.get(key) not in ([number, turn], None):
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_cannot_be_kept_is_told(make: Make) -> None:
    one = make()
    with pytest.raises(EncodeError, match="the value of 'k'"):
        one.set("k", object())
    assert one.get("k") is None


def test_pickle_only_where_asked_for(make: Make) -> None:
    trusting = make(serializer="pickle")
    shared(trusting)
    trusting.set("k", {1, 2})
    assert trusting.get("k") == {1, 2}
    assert make().get("k", "refused") == "refused"


def test_a_forked_process_has_connections_of_its_own(make: Make) -> None:
    one = make()
    shared(one)
    one.set_many({f"k{n}": n for n in range(20)})
    make(local_size=0).get("k1")
    readers = []
    for _ in range(3):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            good = all(one.get(f"k{n % 20}") == n % 20 for n in range(200))
            one.set(f"child{os.getpid()}", 1)
            os.write(writer, b"y" if good else b"n")
            os._exit(0)
        os.close(writer)
        readers.append((pid, reader))
    assert all(make(local_size=0).get(f"k{n % 20}") == n % 20 for n in range(100))
    for pid, reader in readers:
        assert os.read(reader, 1) == b"y"
        os.close(reader)
        os.waitpid(pid, 0)
        assert one.get(f"child{pid}") == 1


def stored(url: str, key: str) -> Any:
    """What another process finds in the cache `images`."""
    other = Cache("images", url)
    try:
        return other.get(key)
    finally:
        other.close()


# --- a server that is away -----------------------------------------------------------------------


@pytest.mark.services
def test_memcached_away_and_back(mortal: Memcached, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flowq.cache")
    server = mortal
    one = Cache("images", server.url, timeout=0.5, retry_after=0.0)
    one.set("k", 1)
    server.stop()
    assert one.get("k") == 1  # from the process
    assert one.get("other") is None
    one.set("other", 2)
    assert one.get("other") == 2  # likewise
    assert one.get_or_set("third", lambda: 3) == 3
    one.delete("k")
    one.clear()
    warned = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == 1
    assert "the cache images is away" in warned[0].getMessage()
    server.start()
    one.set("k", 4)
    assert stored(server.url, "k") == 4
    assert "is back" in caplog.records[-1].getMessage()
    one.close()


@pytest.mark.parametrize("kind", ["redis://:secret@127.0.0.1:{}/0", "memcached://127.0.0.1:{}"])
def test_nobody_there(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    one = Cache("images", kind.format(free_port()), timeout=0.2)
    for number in range(50):
        assert one.get_or_set(f"k{number}", lambda: 5) == 5
    assert len(caplog.records) == 1  # it was asked once
    assert "secret" not in caplog.text
    one.close()


@pytest.mark.services
def test_a_value_too_large_for_the_server(
    memcached: Memcached, caplog: pytest.LogCaptureFixture
) -> None:
    one = Cache("images", memcached.url)
    large = b"x" * 3_000_000
    one.set("large", large)
    one.set_many({"a": 1, "large": large, "b": 2})
    assert one.get("large") == large  # from the process
    assert stored(memcached.url, "large") is None
    assert [stored(memcached.url, key) for key in "ab"] == [1, 2]
    assert caplog.records == []
    one.close()


# --- the layer in the process --------------------------------------------------------------------


def test_the_local_layer_is_bounded() -> None:
    now = [0.0]
    local = Local(3, 100, clock=lambda: now[0])
    for key in "abc":
        local.put(key, b"x" * 10, None)
    assert local.get("a") is not None
    local.put("d", b"x" * 10, None)
    assert [key for key in "abcd" if local.get(key)] == ["a", "c", "d"]  # b was used least recently
    local.put("e", b"x" * 90, 5)
    assert [key for key in "acde" if local.get(key)] == ["d", "e"]
    local.put("e", b"x" * 101, 5)
    assert local.get("e") is None
    local.put("f", b"x", 5)
    now[0] = 5.0
    assert local.get("f") is None
    assert len(local) == 1
    local.clear()
    assert len(local) == 0


# --- names ---------------------------------------------------------------------------------------


def test_caches_are_named_in_the_settings() -> None:
    app = Flowq(
        "cached",
        set_as_current=False,
        caches={
            "images": {"url": "memory://", "ttl": 60, "local_size": 2},
            "plain": "cache+memcached://h:1",
        },
    )
    images = cache.get("images", app=app)
    assert images is cache.get("images", app=app)
    assert images.ttl == 60
    assert images.prefix == "flowq:images:"
    assert cache.get("default", app=app).url == "memory://"
    assert repr(cache.get("plain", app=app)) == "<Cache plain cache+memcached://h:1>"
    with pytest.raises(ImproperlyConfigured, match=r"called 'image' .*there is images"):
        cache.get("image", app=app)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "http://x"}, "of no known kind"),
        ({"url": "memcached://h:port"}, "memcached://h:port"),
        ({"url": "memory://", "tll": 5}, "'tll', which no cache has"),
        ({"url": "memory://", "prefix": "a b"}, "without spaces"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], said: str) -> None:
    app = Flowq("cached", set_as_current=False, caches={"bad": options})
    with pytest.raises(ImproperlyConfigured, match=said):
        cache.get("bad", app=app)
