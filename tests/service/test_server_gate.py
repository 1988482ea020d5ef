"""Who is let in, and that nobody gets out of a run folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from dathvd.client import Client
from dathvd.errors import UserError
from dathvd.service import record
from dathvd.service.catalogue import Catalogue
from dathvd.service.server import auth
from dathvd.service.server.settings import ServerSettings, check
from tests.processes import DATHVD, Finished
from tests.processes import run as run_process
from tests.service.serving import Server, serving
from tests.service.test_catalogue import make_run


def run(words: list[str]) -> Finished:
    return run_process([DATHVD, *words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's folder, with one finished run."""
    found = tmp_path_factory.mktemp("server")
    make_run(found / "runs" / "run", 0)
    index = Catalogue(f"sqlite:///{found / 'server.sqlite'}")
    index.rescan(found / "runs")
    index.close()
    return found


@pytest.fixture(scope="module")
def token(folder: Path) -> str:
    """A token of the server."""
    return auth.add_token(token_file(folder), "me")


@pytest.fixture(scope="module")
def server(folder: Path, token: str) -> Iterator[Server]:
    """A server that knows the token and the run."""
    with serving(folder) as found:
        yield found


def token_file(folder: Path) -> Path:
    return folder / "config" / "dathvd" / "tokens.json"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_token_lets_in_and_nothing_else_does(
    server: Server, token: str, folder: Path
) -> None:
    assert server.ask("/api/runs").status == 401
    assert server.ask("/metrics").status == 401
    assert server.ask("/api/openapi.json").status == 401
    page = server.ask("/", headers={"Accept": "text/html"})
    assert (page.status, page.headers["location"]) == (303, "/login")
    for wrong in ("", "x", token[:-1], token + "x", auth.digest(token)):
        assert server.ask("/api/runs", headers=bearer(wrong)).status == 401
        assert server.ask("/login", "POST", f"token={wrong}".encode()).status == 401
    assert server.ask("/api/runs", headers=bearer(token)).json["total"] == 1
    assert server.ask("/healthz").json == {"ok": True}
    # neither the token nor its hash is anywhere that people look
    said = server.log.read_text() + server.ask("/login").text
    assert token not in said and auth.digest(token) not in said
    assert token not in token_file(folder).read_text()
    assert token_file(folder).stat().st_mode & 0o777 == 0o600


def test_a_browser_signs_in_and_writes_from_its_own_page_alone(
    server: Server, token: str
) -> None:
    answer = server.ask("/login", "POST", f"token={token}".encode())
    cookie = answer.headers["set-cookie"]
    assert answer.status == 303
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and token not in cookie
    session = {"Cookie": cookie.partition(";")[0]}
    assert server.ask("/", headers=session).status == 200
    uuid = server.ask("/api/runs", headers=session).json["runs"][0]["job"]["uuid"]
    stop = f"/api/runs/{uuid}/stop"
    assert server.ask(stop, "POST", headers=session).status == 403
    foreign = {**session, "Origin": "http://evil.example"}
    assert server.ask(stop, "POST", headers=foreign).status == 403
    own = {**session, "Origin": server.address}
    assert server.ask(stop, "POST", headers=own).status == 200
    # a bearer token is not sent by a browser of its own accord
    assert server.ask(stop, "POST", headers=bearer(token)).status == 200
    both = {**bearer(token), "Origin": "http://evil.example"}
    assert server.ask(stop, "POST", headers=both).status == 403
    assert server.ask("/logout", "POST", headers=own).status == 303
    assert server.ask("/api/runs", headers=session).status == 401


def test_another_name_for_this_address_is_refused(server: Server, token: str) -> None:
    """As a page of another site that has its name point here."""
    evil = {**bearer(token), "Host": "evil.example"}
    assert server.ask("/api/runs", headers=evil).status == 421
    assert server.ask("/healthz", headers={"Host": "evil.example"}).status == 421


def test_pages_may_load_nothing_from_elsewhere(server: Server, token: str) -> None:
    policy = server.ask("/", headers=bearer(token)).headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy and "unsafe" not in policy


def test_ten_ways_out_of_the_run_folder_lead_nowhere(
    server: Server, token: str, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("my secret")
    runs = server.ask("/api/runs", headers=bearer(token)).json["runs"]
    uuid, run_folder = runs[0]["job"]["uuid"], Path(runs[0]["run"])
    (run_folder / "training.png").symlink_to(secret)
    (run_folder / "logs").mkdir()
    (run_folder / "logs" / "rank-000.log").symlink_to(secret)
    os.mkfifo(run_folder / "logs" / "rank-001.log")
    (run_folder / "examples.png").mkdir()
    shutil.copy(secret, run_folder / "other.txt")
    base = f"/api/runs/{uuid}"
    ways = [
        f"{base}/files/../../../secret",
        f"{base}/files/..%2f..%2fsecret",
        f"{base}/files/%2e%2e/%2e%2e/secret",
        f"{base}/files/{str(secret).replace('/', '%2f')}",
        f"{base}/files/other.txt",
        f"{base}/files/job.json",
        f"{base}/files/training.png",
        f"{base}/files/examples.png",
        f"{base}/files/result.json%00.png",
        f"{base}/log?rank=0&start=0",
        f"{base}/log?rank=1&start=0",
        f"{base}/log?rank=-1",
        f"{base}/log?rank=../../secret",
        "/api/runs/..%2f..%2fsecret",
        "/static/../../../../../../../../etc/passwd",
        "/static/..%2f..%2fapp.py",
        "/api/runs/" + "0" * 32 + "/files/result.json",
    ]
    for way in ways:
        answer = server.ask(way, headers=bearer(token))
        assert answer.status in (404, 422), (way, answer.status)
        assert b"my secret" not in answer.body and b"root:" not in answer.body
    assert server.ask(f"{base}/files/result.json", headers=bearer(token)).status == 200


def test_what_is_submitted_is_a_configuration_and_no_command(
    server: Server, token: str, folder: Path
) -> None:
    for overrides in (
        ["--run-dir=/etc"],
        ["train.epochs=1; touch pwned"],
        ["train.epochs=$(touch pwned)"],
        ["no.field=1"],
        ["model.name=os:system", "model.options.command=touch pwned"],
        ["--config", "/etc/passwd"],
    ):
        body = {"overrides": overrides}
        answer = server.ask("/api/runs", "POST", body, bearer(token))
        assert answer.status == 422, overrides
        assert "\n" not in answer.json["detail"]
    options = {"overrides": [], "options": {"partition": "x"}}
    assert server.ask("/api/runs", "POST", options, bearer(token)).status == 422
    assert not list(folder.rglob("pwned"))


def test_the_client_says_what_the_server_says(server: Server, token: str) -> None:
    client = Client(server.address, token)
    runs, total = client.runs(state=["finished"])
    assert total == 1 and client.run(runs[0]["job"]["uuid"])["run"] == runs[0]["run"]
    assert client.find("run") == runs[0]["job"]["uuid"]
    assert client.compare([runs[0]["job"]["uuid"]])["is_comparable"]
    for action, message in (
        (lambda: Client(server.address).runs(), "a token is needed"),
        (lambda: Client(server.address, "x").runs(), "a token is needed"),
        (lambda: client.find("nothing"), "no such run"),
        (lambda: client.run("0" * 32), "no run 0000"),
        (lambda: client.resume(runs[0]["job"]["uuid"]), "it is finished"),
        (lambda: client.submit(["attack.epsilom=1"]), "unknown key 'attack.epsilom'"),
        (lambda: Client("http://127.0.0.1:9", token).runs(), "cannot be reached"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            action()
        assert token not in str(caught.value)


def test_every_token_is_compared_in_constant_time() -> None:
    gate = auth.Gate([auth.digest("a"), auth.digest("b"), auth.digest("c")])
    with patch("hmac.compare_digest", return_value=True) as compare:
        assert gate.knows("z")
    # all of them, also after a match, and always digests of one length
    assert compare.call_count == 3
    assert {len(x) for call in compare.call_args_list for x in call.args} == {64}
    assert gate.knows("b") and not gate.knows("z") and not auth.Gate([]).knows("")


def test_without_tokens_the_same_user_alone_is_let_in(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert server.ask("/api/runs").status == 200
        assert server.ask("/").status == 200
        if os.geteuid() != 0 or not shutil.which("setpriv"):
            pytest.skip("needs root to ask as another user")
        script = (
            "import sys, urllib.request as u, urllib.error as e\n"
            "try: print(u.urlopen(sys.argv[1]).status)\n"
            "except e.HTTPError as error: print(error.code)\n"
        )
        other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        words = ["/usr/bin/python3", "-c", script, f"{server.address}/api/runs"]
        done = subprocess.run([*other, *words], capture_output=True, text=True)
        assert done.stdout.strip() == "403", done.stderr


def test_an_open_address_needs_a_token_and_tls(tmp_path: Path) -> None:
    for settings, message in (
        (ServerSettings(host="0.0.0.0"), "so it needs a token"),
        (ServerSettings(tls_key=tmp_path), "belong together"),
        (
            ServerSettings(tls_key=tmp_path / "x", tls_certificate=tmp_path / "x"),
            "no such file",
        ),
    ):
        with pytest.raises(UserError, match=message):
            check(settings)
    auth.add_token(auth.default_token_file(), "me")
    with pytest.raises(UserError, match="would travel in the clear"):
        check(ServerSettings(host="0.0.0.0"))
    check(ServerSettings(host="0.0.0.0", behind_proxy=True))
    auth.default_token_file().chmod(0o644)
    with pytest.raises(UserError, match="others can read it"):
        check(ServerSettings(host="0.0.0.0", behind_proxy=True))
    done = run(["serve", "--host", "0.0.0.0"])
    assert done.code == 2 and "others can read it" in done.stderr


def test_tls_is_spoken_and_certificates_are_checked(tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    words = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    with serving(tmp_path, *words) as server:
        assert server.address.startswith("https://")
        assert Client(server.address, certificates=str(certificate)).runs() == ([], 0)
        with pytest.raises(UserError, match="cannot be reached: .*certificate"):
            Client(server.address).runs()


def test_new_tokens_are_printed_once(tmp_path: Path) -> None:
    done = run(["serve", "--new-token", "laptop"])
    token = done.stdout.strip()
    assert done.code == 0 and len(token) >= 40
    assert auth.read_hashes(auth.default_token_file()) == {"laptop": auth.digest(token)}


def test_an_address_in_use_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        port = server.address.rpartition(":")[2]
        done = run(["serve", "--port", port])
        assert done.code == 2 and "Address already in use" in done.stderr


def test_records_that_name_other_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"uuid": "../../../../etc/passwd"}')
    with pytest.raises(UserError, match="not a record of dathvd"):
        record.read_job(tmp_path)
