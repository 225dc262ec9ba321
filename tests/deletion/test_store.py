"""What may be done to a request, in which order, and what the ledger says of it."""

import json
import shutil
from contextlib import contextmanager
from datetime import timedelta

import pytest
import sqlalchemy as sa

from tests.deletion.conftest import ADA, MODEL, facts
from unlearn.deletion import tables
from unlearn.deletion.request import DeletionRequest
from unlearn.deletion.rules import CCPA
from unlearn.deletion.store import Person, Store
from unlearn.errors import InputError


def events(store, request):
    with store.registry.look() as view:
        return [json.loads(line)["event"] for line in view.ledger(request.id)]


def everything(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def to_outcome(store, request):
    store.approve(request.id, by="officer")
    for step in ("locate", "plan", "unlearn"):
        store.take_step(request.id, step, by="worker")
    return store.take_step(request.id, "audited", by="worker", verdict="PASS")


def test_a_request_goes_from_received_to_closed(store, opened):
    assert opened.state == "scoped" and opened.records == 1 and opened.models == (MODEL,)
    assert to_outcome(store, opened).verdict == "PASS"
    store.take_step(opened.id, "deploy", by="officer")
    store.take_step(opened.id, "notify", by="officer")
    assert store.close_request(opened.id, by="officer").state == "closed"
    assert events(store, opened) == [
        *("received", "scope", "approve", "locate", "plan", "unlearn", "audited"),
        *("deploy", "notify", "close"),
    ]
    assert store.verify() == []


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ("locate", "is scoped, and locate does not follow: approve it first"),
        ("audited", "is not being processed"),
        ("deploy", "has no outcome yet"),
        ("close", "has no outcome yet"),
    ],
)
def test_a_step_that_does_not_follow_explains_itself_and_leaves_no_trace(store, opened, step, why):
    before = events(store, opened)
    with pytest.raises(InputError, match=why):
        store.take_step(opened.id, step, by="officer")
    assert store.get(opened.id) == opened and events(store, opened) == before


def test_what_is_personal_is_in_the_vault_and_nowhere_in_clear(store, opened):
    to_outcome(store, opened)
    store.registry.close()
    for text in (b"Quill", b"Tarn", b"example.org", b"births", b"forget-Ada"):
        assert text not in everything(store.folder)
    read = store.forget_set(opened.id)
    assert [record.answer for record in read.forget] == ["Tarn"]
    assert read.name == opened.id and "Quill" not in read.description + read.forget[0].id


def test_closing_leaves_nothing_to_read_or_to_link(store, opened):
    to_outcome(store, opened)
    index = store.vault.blind_index(ADA.subject)
    in_file = store.registry.engine.dialect.name == "sqlite"
    assert (index.encode() in everything(store.folder)) is in_file
    store.close_request(opened.id, by="officer")
    assert index.encode() not in everything(store.folder)
    with store.registry.look() as view:
        assert view.found_by([index]) == []
    assert store.get(opened.id).forget_set == "" and store.vault.requests() == []
    with pytest.raises(InputError, match=r"key of request .* is destroyed"):
        store.forget_set(opened.id)
    with pytest.raises(InputError, match="is closed"):
        store.take_step(opened.id, "notify", by="officer")
    assert store.verify() == []


def test_a_closing_that_was_interrupted_is_found_and_finished(store, opened, monkeypatch):
    to_outcome(store, opened)
    with monkeypatch.context() as broken:
        broken.setattr(store.vault, "destroy", lambda request: (_ for _ in ()).throw(OSError()))
        with pytest.raises(OSError):
            store.close_request(opened.id, by="officer")
    assert [flaw.kind for flaw in store.verify()] == ["state"]
    store.close_request(opened.id, by="officer")
    assert store.verify() == [] and events(store, opened).count("close") == 1


def test_the_same_person_is_recognised_by_any_identifier(store, opened):
    again = Person("A. Quill", ("ADA.QUILL@example.org",))
    request = DeletionRequest.open(ground="objection")
    with pytest.raises(InputError, match=f"request {opened.id}, .* is about the same person") as e:
        store.open(request, again, by="officer")
    assert "uill" not in str(e.value)
    assert store.vault.requests() == [opened.id] and len(store.requests()) == 1
    store.open(request, again, by="officer", again=True)
    assert len(store.requests()) == 2 and store.verify() == []


def test_a_closed_request_is_not_recognised(store, opened):
    to_outcome(store, opened)
    store.close_request(opened.id, by="officer")
    store.open(DeletionRequest.open(ground="objection"), ADA, by="officer")


@pytest.mark.parametrize("reason", ["wrote as ada  quill", "asked about Tarn.", "(Ada Quill)"])
def test_a_reason_may_not_say_what_has_to_go(store, opened, reason):
    with pytest.raises(InputError, match="say it without") as caught:
        store.approve(opened.id, by="officer", reason=reason)
    assert "Quill" not in str(caught.value) and store.get(opened.id).state == "scoped"
    store.approve(opened.id, by="officer", reason="asked from Starnberg, quilled")


def test_identity_checks_hold_the_decision_and_the_clock(store, opened):
    asked = store.ask_identity(opened.id, by="officer")
    with pytest.raises(InputError, match="waits for the person to prove who they are"):
        store.approve(opened.id, by="officer")
    with pytest.raises(InputError, match="asked already"):
        store.ask_identity(opened.id, by="officer")
    (pause,) = asked.pauses
    assert pause.until is None
    proven = store.verify_identity(opened.id, by="officer")
    assert proven.identity == "verified" and proven.pauses[0].until == proven.today()
    assert store.approve(opened.id, by="officer").state == "approved"


def test_an_extension_is_given_once_and_in_time(store):
    today = DeletionRequest.open(ground="objection").today()
    fresh = DeletionRequest.open(ground="objection", rules=CCPA)
    store.open(fresh, Person("Bo Lindt"), by="officer")
    extended = store.extend(fresh.id, by="officer", reason="many requests")
    assert extended.due() == today + timedelta(days=90)
    with pytest.raises(InputError, match="cannot be extended: it is extended"):
        store.extend(fresh.id, by="officer", reason="again")
    late = DeletionRequest.open(ground="objection", received=today - timedelta(days=40))
    store.open(late, Person("Cy Marl"), by="officer")
    with pytest.raises(InputError, match="was due on"):
        store.extend(late.id, by="officer", reason="slow")


def test_the_future_is_refused(store):
    tomorrow = DeletionRequest.open(ground="objection").today() + timedelta(days=1)
    request = DeletionRequest.open(ground="objection", received=tomorrow)
    with pytest.raises(InputError, match="after today"):
        store.open(request, ADA, by="officer")
    assert store.requests() == [] and store.vault.requests() == []


def test_the_most_urgent_come_first_and_answered_ones_are_not_due(store, opened):
    today = opened.today()
    old = DeletionRequest.open(ground="objection", received=today - timedelta(days=29))
    store.open(old, Person("Bo Lindt"), by="officer")
    assert [each.id for each in store.requests()] == [old.id, opened.id]
    assert [each.id for each in store.requests(due_by=today + timedelta(days=7))] == [old.id]
    store.take_step(old.id, "deny", by="officer", reason="not in the data")
    store.take_step(old.id, "notify", by="officer")
    assert store.requests(due_by=today + timedelta(days=7)) == []


def test_a_store_is_found_again_and_others_are_told_apart(store, opened, tmp_path, database):
    with Store(store.folder, url=database) as again:
        assert again.get(opened.id) == opened and again.verify() == []
    with pytest.raises(InputError, match="holds no store of requests"):
        Store(tmp_path / "nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        Store(tmp_path / "full", create=True)
    with pytest.raises(InputError, match="there is no request 'nobody'"):
        store.get("nobody")


def test_without_its_master_key_a_store_does_not_open(store, opened, database):
    (store.folder / "keys" / "master.key").unlink()
    with pytest.raises(InputError, match="the master key is not in"):
        Store(store.folder, url=database)


def test_a_store_whose_database_is_gone_is_not_begun_anew(store, opened):
    store.registry.close()
    for file in store.folder.glob("registry.sqlite*"):
        file.unlink()
    with pytest.raises(InputError, match=r"registry\.sqlite is gone"):
        Store(store.folder)


def test_a_store_in_a_file_does_not_go_on_in_a_database(store, opened, database):
    if database is None:
        with pytest.raises(InputError, match="the registry of this store is"):
            Store(store.folder, url="postgresql://nowhere/office")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql+nothing://x", "needs the Python package|no database URL|not in"),
        ("nonsense", "no folder and no database URL"),
        ("postgresql://tests:secret@/office?host=/nowhere", "does not open"),
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(tmp_path, url, why):
    with pytest.raises(InputError, match=why) as caught:
        Store(tmp_path / "office", url=url, create=True)
    assert "secret" not in str(caught.value)


@contextmanager
def behind_its_back(store):
    """A connection on which the database lets anything be done to the ledger."""
    with store.registry.engine.begin() as database:
        if database.dialect.name == "postgresql":
            database.exec_driver_sql("ALTER TABLE ledger DISABLE TRIGGER ALL")
        else:
            for name in ("UPDATE", "DELETE"):
                database.exec_driver_sql(f"DROP TRIGGER IF EXISTS ledger_no_{name}")
        yield database


def found(store):
    return [(flaw.kind, flaw.seq) for flaw in store.verify()]


def test_the_database_itself_refuses_to_change_the_ledger(store, opened):
    for statement in ("UPDATE ledger SET text = 'x'", "DELETE FROM ledger"):
        with (
            pytest.raises(sa.exc.DBAPIError, match="append-only"),
            store.registry.engine.begin() as database,
        ):
            database.exec_driver_sql(statement)


def test_verify_finds_what_was_done_behind_its_back(store, opened):
    store.approve(opened.id, by="officer")
    with behind_its_back(store) as database:
        text = sa.func.replace(tables.ledger.c.text, "officer", "ghost")
        swap = sa.update(tables.ledger).where(tables.ledger.c.seq == 2).values(text=text)
        database.execute(swap)
    assert ("chain", 3) in found(store)


def test_verify_finds_a_cut_ledger_even_if_the_head_was_put_back(store, opened):
    with store.registry.look() as view:
        earlier = view.head().model_dump()
    store.approve(opened.id, by="officer")
    with behind_its_back(store) as database:
        database.execute(sa.delete(tables.ledger).where(tables.ledger.c.seq == 3))
        database.execute(sa.update(tables.ledger_head).values(document=earlier))
    assert ("end", 0) in found(store)  # by head.json
    (store.folder / "head.json").unlink()
    assert ("end", 0) not in found(store) and ("state", 2) in found(store)


def test_verify_finds_a_request_that_is_gone(store, opened):
    with behind_its_back(store) as database:
        database.execute(sa.delete(tables.identifier))
        database.execute(sa.delete(tables.request))
    assert ("state", 2) in found(store)


def test_verify_finds_a_state_that_was_changed_by_hand(store, opened):
    with behind_its_back(store) as database:
        denied = json.loads(opened.model_dump_json()) | {"state": "denied"}
        database.execute(sa.update(tables.request).values(document=denied))
    assert ("state", 2) in found(store)


def test_verify_finds_another_key_and_a_lost_vault(store, opened, tmp_path):
    with Store(tmp_path / "other", create=True) as other:
        assert [flaw.kind for flaw in store.verify(other.public_key)][:1] == ["signature"]
    shutil.rmtree(store.vault.folder / opened.id)
    assert [flaw.kind for flaw in store.verify()] == ["state"]


def test_a_failure_within_a_step_changes_nothing(store, opened, monkeypatch):
    from unlearn.deletion.registry import Change

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(Change, "record", fail)
    with pytest.raises(OSError, match="disk full"):
        store.approve(opened.id, by="officer")
    monkeypatch.undo()
    assert store.get(opened.id) == opened and store.verify() == []


def test_an_opening_that_fails_leaves_nothing_in_the_vault(store, monkeypatch):
    from unlearn.deletion.registry import Change

    with monkeypatch.context() as broken:
        broken.setattr(Change, "record", lambda *args, **kwargs: (_ for _ in ()).throw(OSError()))
        with pytest.raises(OSError):
            store.open(DeletionRequest.open(ground="objection"), ADA, by="officer")
    assert store.vault.requests() == [] and store.requests() == [] and store.verify() == []


def test_an_opening_that_is_cut_off_after_its_commit_keeps_the_vault(store, monkeypatch):
    def interrupt(head):
        raise KeyboardInterrupt

    request = DeletionRequest.open(ground="objection")
    with monkeypatch.context() as broken:
        broken.setattr(store, "_keep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.open(request, ADA, by="officer")
    assert store.get(request.id) == request and store.vault.requests() == [request.id]
    assert store.verify() == []


def test_verify_names_what_a_killed_opening_left_in_the_vault(store, opened):
    store.vault.create("f" * 16)
    (flaw,) = store.verify()
    assert flaw.kind == "state" and "its opening was cut off" in flaw.message


def test_scoping_later(store):
    request = store.open(DeletionRequest.open(ground="objection"), ADA, by="officer")
    assert request.state == "received"
    with pytest.raises(InputError, match="give it facts and a model"):
        store.approve(request.id, by="officer")
    assert store.scope(request.id, facts(), [MODEL], by="officer").state == "scoped"
