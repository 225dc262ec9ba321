"""The registry: its tables, its leases, and many workers at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from tests.deletion.conftest import MODEL, facts
from unlearn.deletion import tables
from unlearn.deletion.leases import leased
from unlearn.deletion.registry import RegisteredModel, Registry
from unlearn.deletion.request import DeletionRequest
from unlearn.deletion.store import Person, Store
from unlearn.errors import InputError

APPROVED = ("approved",)


def approved(store, n):
    ids = []
    for number in range(n):
        request = DeletionRequest.open(ground="objection")
        store.open(request, Person(f"Person {number}"), by="o", forget_set=facts(), models=[MODEL])
        store.approve(request.id, by="o")
        ids.append(request.id)
    return ids


def test_migrations_lead_to_the_tables_that_the_code_knows(store):
    with store.registry.engine.connect() as database:
        context = MigrationContext.configure(database)
        assert compare_metadata(context, tables.metadata) == []
        assert context.get_current_revision() == tables.SCHEMA


def test_a_registry_of_a_newer_version_is_refused_and_left_alone(store):
    with store.registry.engine.begin() as database:
        database.exec_driver_sql("UPDATE alembic_version SET version_num = 'r9999'")
    url = store.registry.engine.url.render_as_string(hide_password=False)
    with pytest.raises(InputError, match=r"another version of unlearn \(r9999\)"):
        Registry(url, store.registry.key)


def test_workers_that_start_at_once_make_the_tables_once(tmp_path, database):
    Store(tmp_path / "office", url=database, create=True).registry.close()

    def open_it(number):
        with Store(tmp_path / "office", url=database) as store:
            return len(store.requests())

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(open_it, range(6))) == [0] * 6


def test_a_lease_keeps_others_out_until_it_runs_out(store):
    (request,) = approved(store, 1)
    now = [1000.0]

    def clock():
        return now[0]

    with store.registry.change() as change:
        change.hold(request, "one", seconds=60, clock=clock)
        change.hold(request, "one", seconds=60, clock=clock)
    with pytest.raises(InputError, match=r"is being processed by one; .* in 60 s"):  # noqa: SIM117
        with store.registry.change() as change:
            change.hold(request, "two", seconds=60, clock=clock)
    now[0] += 61
    with store.registry.change() as change:
        change.hold(request, "two", seconds=60, clock=clock)
        change.release(request, "one")  # too late: it is another's
        assert change.lease(request)[0] == "two"
        change.release(request, "two")
        assert change.lease(request) == ("", 0.0)


def test_a_lease_is_renewed_while_the_work_lasts(store):
    (request,) = approved(store, 1)
    with leased(store.registry, [request], "one", seconds=0.6):
        with store.registry.look() as view:
            _, first = view.lease(request)
        threading.Event().wait(0.8)
        with store.registry.look() as view:
            assert view.lease(request)[1] > first
    with store.registry.look() as view:
        assert view.lease(request) == ("", 0.0)


def test_eight_workers_never_get_the_same_request(store, tmp_path, database):
    ids = approved(store, 24)
    start = threading.Barrier(8)

    def work(number):
        mine = []
        with Store(store.folder, url=database) as own:
            start.wait()
            while True:
                with own.registry.change() as change:
                    taken = change.take(f"worker {number}", APPROVED, seconds=60, most=2)
                if not taken:
                    return mine
                for request in taken:
                    own.take_step(request.id, "locate", by=f"worker {number}")
                    mine.append(request.id)

    with ThreadPoolExecutor(8) as pool:
        taken = [request for mine in pool.map(work, range(8)) for request in mine]
    assert sorted(taken) == sorted(ids)
    assert store.verify() == []


def test_a_worker_takes_requests_about_the_same_models_together(store):
    ids = approved(store, 3)
    other = DeletionRequest.open(ground="objection")
    elsewhere = MODEL.model_copy(update={"digest": "cd" * 32})
    store.open(other, Person("Zo"), by="o", forget_set=facts(), models=[elsewhere])
    store.approve(other.id, by="o")
    with store.registry.change() as change:
        first = change.take("one", APPROVED, seconds=60, wanted=lambda r: r.id != ids[0])
        second = change.take("two", APPROVED, seconds=60)
        third = change.take("two", APPROVED, seconds=60)
        assert change.take("three", APPROVED, seconds=60) == []
    assert sorted(each.id for each in first) == sorted(ids[1:])
    assert [[each.id for each in taken] for taken in (second, third)] == [[ids[0]], [other.id]]


def test_entries_that_are_written_at_once_are_chained(store):
    ids = approved(store, 4)

    def write(request):
        for _ in range(10):
            with store.change() as change:
                change.record(request, "measured", by="worker")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, ids))
    assert store.verify() == []
    with store.registry.look() as view:
        assert view.head().seq == 4 * 3 + 40


def test_lineage_goes_up_and_what_was_derived_goes_down(store):
    chain = [("a" * 64, ""), ("b" * 64, "a" * 64), ("c" * 64, "b" * 64), ("d" * 64, "a" * 64)]
    with store.registry.change() as change:
        for digest, parent in chain:
            change.register(RegisteredModel(digest=digest, source=digest[:1], parent=parent))
        change.register(RegisteredModel(digest="b" * 64, source="again", parent="d" * 64))
    with store.registry.look() as view:
        assert [d[:1] for d in view.lineage("c" * 64)] == ["c", "b", "a"]
        assert view.lineage("e" * 64) == ["e" * 64]
        assert sorted(m.source for m in view.derived("a" * 64)) == ["b", "c", "d"]
        assert view.derived("c" * 64) == []


def test_a_transaction_that_fails_writes_nothing(store):
    (request,) = approved(store, 1)
    with pytest.raises(ZeroDivisionError), store.change() as change:
        change.record(request, "measured", by="worker")
        raise ZeroDivisionError
    with store.registry.look() as view:
        assert view.head().seq == 3
        rows = view.database.execute(sa.select(sa.func.count()).select_from(tables.ledger))
        assert rows.scalar() == 3
