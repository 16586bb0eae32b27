import random
import socket
import time

import pytest
from http_server import Server, get, http_date

from cmd_lightning.data import fetch
from cmd_lightning.data.fetch import FetchError, FetchOptions, MissingError, download
from cmd_lightning.errors import InputError

BODY = random.Random(1).randbytes(200_000)


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses between tries, none of which is made."""
    made = []
    monkeypatch.setattr(fetch, "_pause", made.append)
    return made


def got(answer, **options):
    """What a download from this server brings, and the headers of its requests."""
    with Server(answer) as server:
        return get(server.url + "/0.tar", **options), server.requests


def fails(answer, match, kind=FetchError, **options):
    with Server(answer) as server:
        with pytest.raises(kind, match=match) as error:
            get(server.url + "/0.tar", **options)
        assert str(error.value).startswith(server.url + "/0.tar: ")
        assert "\n" not in str(error.value)
        return server.requests


def test_a_file_comes_whole_at_once(pauses):
    body, requests = got(lambda reply, _: reply.file(BODY), size=len(BODY))
    assert body == BODY
    assert len(requests) == 1
    assert "Range" not in requests[0]
    assert pauses == []
    assert got(lambda reply, _: reply.file(b""), size=0)[0] == b""


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(code, pauses):
    def answer(reply, number):
        return reply.status(code, Content_Length=0) if number < 7 else reply.file(BODY)

    assert got(answer)[0] == BODY
    for number, pause in enumerate(pauses):
        assert min(0.5 * 2**number, 30) / 2 <= pause <= min(0.5 * 2**number, 30)
    assert len(pauses) == 7
    assert len(fails(answer, rf"cannot be read \(HTTP Error {code}.*, 7 tries\)", attempts=7)) == 7


def test_pauses_grow_to_half_a_minute_and_differ(pauses):
    fails(lambda reply, _: reply.status(500, Content_Length=0), "40 tries", attempts=40)
    assert max(pauses) <= 30
    assert min(pauses[10:]) >= 15
    assert len(set(pauses[10:])) > 20


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 416])
def test_a_refusal_is_final(code, pauses):
    kind = MissingError if code in (403, 404, 410) else FetchError
    requests = fails(
        lambda reply, _: reply.status(code, Content_Length=0), rf"cannot be read \(HTTP Error {code}", kind
    )
    assert len(requests) == 1
    assert pauses == []


def test_answers_without_a_file_are_failures():
    fails(lambda reply, _: reply.status(204), "HTTP status 204", attempts=2)
    fails(lambda reply, _: reply.wfile.write(b"SSH-2.0-OpenSSH\r\n"), "SSH-2.0", attempts=2)


def test_retry_after_is_followed(pauses):
    advice = ["7", http_date(time.time() + 100), "100000", http_date(time.time() - 100), "soon", "-5"]

    def answer(reply, number):
        if number == len(advice):
            return reply.file(BODY)
        return reply.status(429 if number % 2 else 503, Content_Length=0, Retry_After=advice[number])

    assert got(answer)[0] == BODY
    assert pauses[0] == 7
    assert 97 < pauses[1] <= 100
    assert pauses[2] == 300
    assert all(pause <= 0.5 * 2**number for number, pause in enumerate(pauses) if number > 2)


def test_nobody_answers(pauses):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/0.tar"
        with pytest.raises(FetchError, match=rf"{url}: cannot be read .*refused, 3 tries"):
            get(url, attempts=3)
    assert len(pauses) == 2


@pytest.mark.parametrize("headers", [{"ETag": '"1"'}, {"Last_Modified": http_date(10**9)}, {"ETag": 'W/"1"'}, {}])
def test_a_server_that_always_cuts_costs_nothing_where_it_knows_ranges(headers, pauses):
    chance = random.Random(2)

    def answer(reply, number):
        start = int(reply.headers.get("Range", "bytes=0-")[6:-1])
        reply.file(BODY, stop=start + chance.randint(1000, 8000), **headers)
        if number % 2:
            reply.reset()

    body, requests = got(answer, size=len(BODY), attempts=2)
    assert body == BODY
    assert len(requests) > 25
    assert max(pauses) <= 0.5
    strong = None if headers.get("ETag") == 'W/"1"' else next(iter(headers.values()), None)
    assert {request.get("If-Range") for request in requests[1:]} == {strong}
    assert len({request["Range"] for request in requests[1:]}) == len(requests) - 1


def test_a_server_without_ranges_starts_over():
    chance = random.Random(3)

    def answer(reply, number):
        reply.file(BODY, ranges=False, stop=None if number == 5 else chance.randrange(len(BODY)))

    body, requests = got(answer)
    assert body == BODY
    assert len(requests) == 6


def test_a_server_that_never_gets_through_ends_in_bounded_time(pauses):
    chance = random.Random(4)

    def cut(reply, _):
        reply.file(BODY, ranges=False, stop=chance.randrange(len(BODY)))

    assert len(fails(cut, r"ended after \d+ of 200000 bytes, 3 tries", attempts=3)) < 60
    assert len(fails(lambda reply, _: reply.file(BODY, stop=50_000), "3 tries", attempts=3)) == 3


@pytest.mark.parametrize("obeys", [True, False])
def test_two_versions_are_never_mixed(obeys):
    """The file changes, with its ETag, after each of four tries; a server may even continue with the other one."""
    versions = [bytes([number]) * 50_000 for number in range(5)]

    def answer(reply, number):
        if not obeys:
            del reply.headers["If-Range"]
        version = min(number, 4)
        reply.file(versions[version], stop=20_000 + 1000 * number if number < 4 else None, ETag=f'"{version}"')

    body, requests = got(answer, attempts=6)
    assert body == versions[4]
    assert any("Range" in request for request in requests)


def test_two_versions_of_other_length_are_never_mixed():
    """A server that names no version at all."""

    def answer(reply, number):
        reply.file(b"a" * 5000, stop=3000) if number == 0 else reply.file(b"b" * 5001)

    assert got(answer)[0] == b"b" * 5001


def test_a_range_that_cannot_be_had_starts_over():
    def shrunk(reply, number):  # it shrank below what came of it, which the server answers with 416
        reply.file(BODY, stop=3000) if number == 0 else reply.file(b"b" * 2000)

    body, requests = got(shrunk)
    assert body == b"b" * 2000
    assert [request.get("Range") for request in requests] == [None, "bytes=3000-", None]

    def emptied(reply, number):  # nothing is put a second time
        reply.file(BODY, stop=3000) if number == 0 else reply.file(b"")

    assert got(emptied)[0] == b""

    def another(reply, number):
        if "Range" in reply.headers:
            reply.status(206, Content_Length=10, Content_Range=f"bytes 5-14/{len(BODY)}")
            reply.wfile.write(BODY[5:15])
        else:
            reply.file(BODY, stop=3000 if number == 0 else None)

    assert got(another)[0] == BODY


def chunks(reply, body, *, end=True):
    reply.status(200, Transfer_Encoding="chunked")
    for start in range(0, len(body), 7000):
        part = body[start : start + 7000]
        reply.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
    if end:
        reply.wfile.write(b"0\r\n\r\n")


def plain(reply, body):
    """As HTTP/1.0 does: the end of the connection is that of the file."""
    reply.status(200, Connection="close")
    reply.wfile.write(body)


def test_a_body_of_unknown_length():
    assert got(lambda reply, _: chunks(reply, BODY))[0] == BODY
    assert got(lambda reply, _: chunks(reply, BODY), size=len(BODY))[0] == BODY
    assert got(lambda reply, number: chunks(reply, BODY[: 10_000 + number], end=number > 2))[0] == BODY[:10_003]
    assert got(lambda reply, _: plain(reply, BODY))[0] == BODY
    assert got(lambda reply, number: plain(reply, BODY[: 60_000 * (number + 1)]), size=len(BODY))[0] == BODY

    def resumed(reply, number):
        reply.file(BODY) if number else chunks(reply, BODY[:21_000], end=False)

    body, requests = got(resumed)
    assert body == BODY
    assert requests[1]["Range"] == "bytes=21000-"


@pytest.mark.parametrize("more", [-1, 1])
def test_another_size_than_that_of_the_index(more, pauses):
    match = f"{len(BODY) + more} by its index, which is out of date"
    assert len(fails(lambda reply, _: reply.file(BODY), rf"has {len(BODY)} bytes, {match}", size=len(BODY) + more)) == 1
    assert len(fails(lambda reply, _: chunks(reply, BODY), match, size=len(BODY) + more)) == 1
    assert pauses == []
    if more < 0:
        fails(lambda reply, _: plain(reply, BODY), match, size=len(BODY) + more)
    else:
        fails(
            lambda reply, _: plain(reply, BODY), "ended after 200000 of 200001 bytes, 2 tries", size=200_001, attempts=2
        )


def silent(reply):
    reply.closing.wait(5)


def silent_in_the_body(reply):
    reply.file(BODY, stop=500)
    reply.closing.wait(5)


def dripping(reply):
    reply.status(200, Content_Length=len(BODY))
    reply.drip(BODY)


def dripping_headers(reply):
    reply.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    reply.drip(b"x" * 10**5)


def dripping_chunk_length(reply):
    reply.status(200, Transfer_Encoding="chunked")
    reply.wfile.write(b"5;")
    reply.drip(b"x" * 10**5)


@pytest.mark.parametrize(
    "stall", [silent, silent_in_the_body, dripping, dripping_headers, dripping_chunk_length], ids=lambda f: f.__name__
)
def test_a_stall_ends_the_try(stall):
    began = time.monotonic()
    body, _ = got(lambda reply, number: reply.file(BODY) if number else stall(reply), timeout=0.15, attempts=40)
    assert body == BODY
    assert 0.15 < time.monotonic() - began < 4
    fails(lambda reply, _: stall(reply), "timed out|stalled", attempts=2, timeout=0.1)


def test_a_slow_but_steady_server_does_not_stall():
    def slow(reply, _):
        reply.status(200, Content_Length=12_000)
        for start in range(0, 12_000, 1000):
            time.sleep(0.1)
            reply.wfile.write(BODY[start : start + 1000])

    body, requests = got(slow, timeout=1.0)  # less than all of it takes
    assert body == BODY[:12_000]
    assert len(requests) == 1


def test_redirects_lead_to_the_web_only(tmp_path, pauses):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for place in (secret.as_uri(), "ftp://127.0.0.1/secret", "data:,secret", "gopher://127.0.0.1/"):
        requests = fails(lambda reply, _: reply.status(302, Location=place, Content_Length=0), "cannot be read")  # noqa: B023
        assert len(requests) == 1
    assert pauses == []

    def moved(reply, _):
        reply.file(BODY) if reply.path == "/there" else reply.status(307, Location="/there", Content_Length=0)

    assert got(moved)[0] == BODY


def test_invalid_addresses():
    for url in ("http://", "http://host:port/0.tar", "https://host/a b.tar", "http://[::1/0.tar"):
        with pytest.raises(FetchError, match="cannot be read"):
            get(url)
    for url in (
        "file:///etc/hosts",
        "ftp://host/0.tar",
        "data:,abc",
        "ais://bucket/0.tar",
        "pipe:echo 1",
        "/etc/hosts",
    ):
        with pytest.raises(InputError, match=r"data\.remote\.allow_commands false: .* stands for a command"):
            get(url)


def test_a_command(tmp_path, pauses):
    (tmp_path / "0.tar").write_bytes(BODY)
    command = f"pipe:cat {tmp_path}/0.tar"
    assert get(command, allow_commands=True) == BODY
    assert get(command, allow_commands=True, size=len(BODY)) == BODY
    assert pauses == []
    with pytest.raises(FetchError, match="199999 by its index, which is out of date"):
        get(command, allow_commands=True, size=199_999)
    with pytest.raises(FetchError, match="has 200000 bytes, 200001 by its index"):
        get(command, allow_commands=True, size=200_001)
    with pytest.raises(InputError, match=r"webdataset runs no command for it; write pipe:COMMAND instead"):
        get("nosuch://bucket/0.tar", allow_commands=True)


@pytest.mark.parametrize("verbose", ["0", "1"])
def test_a_command_that_fails_gives_nothing(tmp_path, verbose, monkeypatch):
    """Also when it printed all before; webdataset tells less of it when it is verbose."""
    monkeypatch.setenv("GOPEN_VERBOSE", verbose)
    (tmp_path / "0.tar").write_bytes(BODY)
    command = f"pipe:cat {tmp_path}/0.tar; echo x >> {tmp_path}/tries; test $(wc -l < {tmp_path}/tries) -gt 2"
    assert get(command, allow_commands=True) == BODY
    assert (tmp_path / "tries").read_text() == "x\n" * 3
    with pytest.raises(FetchError, match=r"exit.* 3.*, 2 tries"):
        get("pipe:exit 3", allow_commands=True, attempts=2)
    with pytest.raises(FetchError, match=r"exit.* 141.*, 2 tries"):  # webdataset takes it for a reader that left
        get("pipe:echo half; exit 141", allow_commands=True, attempts=2)


def test_a_command_that_stalls_is_ended(tmp_path):
    began = time.monotonic()
    for command in ("echo a; exec sleep 5", "while true; do echo; sleep 0.02; done", "exec >&-; exec sleep 5"):
        with pytest.raises(FetchError, match=r"timed out|stalled"):
            get(f"pipe:{command}", allow_commands=True, attempts=1, timeout=0.15)
    assert time.monotonic() - began < 3


def totals(url, size=None, **options):
    heard = []
    download(url, lambda at, data, total: heard.append(total), FetchOptions(**options), size)
    return set(heard)


def test_the_size_comes_with_the_bytes_where_it_is_known():
    with Server(lambda reply, _: reply.file(BODY)) as server:
        assert totals(server.url + "/0.tar") == {len(BODY)}
    with Server(lambda reply, _: chunks(reply, BODY)) as server:
        assert totals(server.url + "/0.tar") == {None}
        assert totals(server.url + "/0.tar", size=len(BODY)) == {len(BODY)}
    assert totals("pipe:echo", allow_commands=True) == {None}
    assert totals("pipe:echo", allow_commands=True, size=1) == {1}


def test_what_put_raises_is_no_failed_try(pauses):
    def full(at, data, total):
        raise InputError("full")

    with Server(lambda reply, _: reply.file(BODY)) as server, pytest.raises(InputError, match="full"):
        download(server.url + "/0.tar", full, FetchOptions())
    assert pauses == []
