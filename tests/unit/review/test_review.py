"""A review: questions, answers, undo and application, for who has the token; and in a real browser, by keyboard."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn

import engine
from engine import cluster
from engine.commands.resources import Resources
from engine.commands.run_folder import run_labels
from engine.commands.updates import update
from engine.errors import DataError
from engine.evaluation.changes import changes
from engine.review.server import _listen, make_app
from engine.review.session import Session
from engine.storage.decisions import read_decisions
from tests.support.browser import browsing, find_browser

TOKEN = "a-token"
HOSTILE = "<script>document.title='broken'</script><img src=x onerror=alert(1)>"


def make_run(folder: Path) -> Path:
    """Clusters of six rows, of which two are two identities and two are halves of one; texts with markup."""
    rng = np.random.default_rng(0)
    identities = np.repeat(np.arange(12), 6)
    centres = rng.normal(size=(12, 24))
    centres[1] = centres[0] + 0.75 * rng.normal(size=24)
    rows = (centres[identities] + 0.3 * rng.normal(size=(72, 24))).astype(np.float32)
    texts = [f"{HOSTILE} offer {row} of {identity}" for row, identity in enumerate(identities)]
    table = pa.table({"id": [f"id-{row}" for row in range(72)], "item": texts, "embedding": list(rows)})
    pq.write_table(table, folder / "rows.parquet")
    partition = {"method": "components", "min_score": 0.75}
    cluster(folder / "rows.parquet", method="cosine", workspace=folder / "run", partition=partition)
    return folder / "run"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(make_run(tmp_path), None, Resources(threads=1))


@pytest.fixture
def served(session: Session) -> Iterator[tuple[Session, int]]:
    listening = _listen(0)
    port = listening.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_app(session, TOKEN, port), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield session, port
    server.should_exit = True
    thread.join(10)


def ask(port: int, path: str, body: Any = None, **headers: str) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    own = {"Cookie": f"asterism_review_{port}={TOKEN}", "Content-Type": "application/json"}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    text = None if body is None else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, text, {**own, **given})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}


def test_answers_are_kept_undone_and_applied(session: Session) -> None:
    before = run_labels(session.root)
    first = session.question()
    assert first is not None
    session.answer(first["rows"], "different", first["place"])
    (entry,) = read_decisions(session.path)
    assert (entry.decision, entry.asked, entry.run) == ("different", first["kind"], str(session.root))
    assert entry.a == f"id-{first['rows'][0]}"
    assert session.question() != first
    session.undo()
    assert [each.decision for each in read_decisions(session.path)] == ["different", "withdrawn"]
    assert session.question() == first
    session.answer([0, 71], "same")
    session.confirm([int(before[0])])
    with pytest.raises(DataError, match=r"id-5 and id-71 were decided to be different .*id-0 = id-71"):
        session.answer([5, 71], "different")
    session.undo()
    session.apply(wait=True)
    state = session.state()
    assert not state["failure"]
    assert state["unapplied"] == 0
    assert state["changes"]["num_changed"] >= 1
    after = run_labels(session.root)
    assert after[0] == after[71]


@pytest.fixture
def living(tmp_path: Path) -> Session:
    """A review of a run that two updates have changed: rows came, and others went."""
    root, rng = make_run(tmp_path), np.random.default_rng(1)
    vectors = pq.read_table(tmp_path / "rows.parquet")["embedding"].to_pylist()
    new = np.array(vectors[6:12], np.float32) + 0.2 * rng.normal(size=(6, 24)).astype(np.float32)
    table = pa.table({"id": [f"new-{row}" for row in range(6)], "item": ["new offer"] * 6, "embedding": list(new)})
    pq.write_table(table, tmp_path / "new.parquet")
    (tmp_path / "gone.txt").write_text("id-0\nid-30\n")
    update(root, features=tmp_path / "new.parquet", items_column="item", progress=False)
    update(root, remove=tmp_path / "gone.txt", progress=False)
    return Session(root, None, Resources(threads=1))


def test_a_run_that_lives_on_is_reviewed_as_it_is(living: Session) -> None:
    collection = engine.open(living.root)
    before, ids = collection.labels, [str(each) for each in collection.row_ids]
    state = living.state()
    assert (state["rows"], state["clusters"], state["unapplied"]) == (76, len(np.unique(before)), 0)
    first = living.question()
    assert first is not None
    assert sorted(first["labels"]) == sorted(before[first["rows"]].tolist())
    label = int(before[ids.index("new-3")])
    shown = living.read(lambda catalogue: catalogue.cluster(label))
    assert shown["size"] == (before == label).sum()
    assert {row["id"] for row in [shown["medoid"], *shown["rows"]]} >= {"new-3", "id-7"}
    assert [row["id"] for row in living.read(lambda catalogue: catalogue.search("ID-3"))] == []
    assert living.read(lambda catalogue: catalogue.search("id-31"))[0]["row"] == ids.index("id-31")
    assert len(living.read(lambda catalogue: catalogue.search("new offer"))) == 6
    far = int(np.flatnonzero(before != label)[-1])
    living.answer([ids.index("new-3"), far], "same")
    with pytest.raises(DataError, match="no cluster 999"):
        living.confirm([999])
    living.confirm([label])
    with pytest.raises(DataError, match=r"were decided to be different .*, but others make them the same"):
        living.answer([ids.index("id-7"), far], "different")
    living.apply(wait=True)
    state = living.state()
    assert (state["failure"], state["unapplied"]) == ("", 0)
    assert state["changes"]["num_changed"] >= 1
    after = engine.open(living.root)
    assert after.version == collection.version + 1
    assert after.labels[far] == after.labels[ids.index("new-3")]
    again = Session(living.root, None, Resources(threads=1))
    assert again.state()["unapplied"] == 0
    assert again.question() == living.question()
    living.undo()
    living.undo()
    assert living.state()["unapplied"] > 0
    living.apply(wait=True)
    assert living.state()["failure"] == ""
    told = changes(before, engine.open(living.root).labels)
    assert (told["joined"], told["parted"]) == (0, 0)
    last = living.question()
    assert last is not None
    assert last["rows"] == first["rows"]


def test_what_has_no_token_or_comes_from_elsewhere_is_refused(served: tuple[Session, int]) -> None:
    _, port = served
    status, text, headers = ask(port, "/api/state")
    assert (status, json.loads(text)["rows"]) == (200, 72)
    assert "default-src 'none'" in headers["content-security-policy"]
    for given in (
        {"Cookie": ""},
        {"Cookie": f"asterism_review_{port}=another"},
        {"Host": f"evil.example:{port}"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
    ):
        assert ask(port, "/api/state", **given)[0] == 403, given
    question = {"rows": [0, 1], "decision": "same"}
    assert ask(port, "/api/answer", question, Sec_Fetch_Site="same-site")[0] == 403
    assert ask(port, "/api/answer", question, Content_Type="text/plain")[0] == 409
    assert ask(port, "/api/answer", {"rows": [0, 99], "decision": "same"})[0] == 409
    status, _, headers = ask(port, f"/?token={TOKEN}", Cookie="")
    assert (status, headers["location"]) == (303, "/")
    assert "HttpOnly" in headers["set-cookie"]
    assert ask(port, "/review.py")[0] == ask(port, "/server.py")[0] == 404


def test_changes_are_counted() -> None:
    told = changes(np.array([0, 0, 1, 1, 2, -1]), np.array([0, 0, 0, 1, 2, 3]))
    assert (told["joined"], told["parted"], told["num_changed"]) == (2, 1, 2)
    assert told["changed"][0] == {"after": 0, "size": 3, "from": [[0, 2], [1, 1]]}


@pytest.mark.browser
@pytest.mark.slow
def test_a_person_reviews_by_keyboard(served: tuple[Session, int], tmp_path: Path) -> None:
    if find_browser() is None:
        pytest.skip("needs Chromium or Chrome on the PATH")
    session, port = served
    with browsing(tmp_path / "profile") as browser:
        browser.open(f"http://127.0.0.1:{port}/?token={TOKEN}")
        browser.wait("document.querySelectorAll('.sides .card').length == 2")
        assert "token" not in browser.run("location.href")
        assert HOSTILE in browser.run("document.querySelector('main').textContent")
        assert browser.run("document.querySelectorAll('main img, main script').length") == 0
        title = "document.getElementById('progress').textContent"
        browser.press("d")
        browser.wait(f"{title}.startsWith('1 answer')")
        browser.press("s")
        browser.wait(f"{title}.startsWith('2 answers')")
        browser.press("z")
        browser.wait(f"{title}.startsWith('1 answer ')")
        browser.press("/")
        browser.type("offer 70 ")
        browser.press("Enter")
        browser.wait("document.querySelectorAll('.list a').length == 1")
        browser.press("Enter")
        browser.wait("location.hash.startsWith('#/cluster/')")
        browser.wait("document.querySelectorAll('.rows li').length >= 6")
        browser.press("c")
        browser.wait("document.getElementById('message').textContent.includes('confirmed')")
        browser.press("a")
        browser.wait("location.hash == '#/changes'", 120)
        assert browser.run("document.title").endswith("Review · Asterism")
        assert not browser.console
        assert {url.split("/")[2] for url in browser.asked if url.startswith("http")} == {f"127.0.0.1:{port}"}
    assert [each.decision for each in read_decisions(session.path)][:3] == ["different", "same", "withdrawn"]
