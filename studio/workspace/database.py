"""The workspace's SQLite file: jobs, workers, bases, labels, and a cache of adapters' headers.

Transactions are atomic, even when their process is killed (SQLite's write-ahead log). Each use
opens its own connection, so any thread and any process may call this.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from studio.errors import BadInput
from studio.workspace.folder import Workspace

VERSION = 1
WAIT = 30.0  # seconds to wait for another process's transaction; most take milliseconds
SCHEMA = """
    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        title TEXT NOT NULL,
        arguments TEXT NOT NULL,
        run TEXT NOT NULL DEFAULT '',
        state TEXT NOT NULL DEFAULT 'queued',
        stop INTEGER NOT NULL DEFAULT 0,
        phase TEXT NOT NULL DEFAULT '',
        step INTEGER NOT NULL DEFAULT 0,
        total INTEGER NOT NULL DEFAULT 0,
        loss REAL,
        seconds REAL NOT NULL DEFAULT 0,
        results TEXT NOT NULL DEFAULT '[]',
        error TEXT NOT NULL DEFAULT '',
        advice TEXT NOT NULL DEFAULT '',
        deaths INTEGER NOT NULL DEFAULT 0,
        reached INTEGER NOT NULL DEFAULT 0,
        created REAL NOT NULL,
        queued REAL NOT NULL,
        started REAL,
        finished REAL,
        removed REAL
    );
    CREATE INDEX jobs_by_state ON jobs (state, queued);
    CREATE TABLE workers (
        lane TEXT PRIMARY KEY,
        pid INTEGER NOT NULL,
        started REAL NOT NULL,
        seen REAL NOT NULL,
        doing TEXT NOT NULL
    );
    CREATE TABLE bases (
        source TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        family TEXT NOT NULL,
        used REAL NOT NULL
    );
    CREATE TABLE headers (
        name TEXT PRIMARY KEY,
        modified INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        told TEXT NOT NULL
    );
"""
# A table that databases of version 1 may lack.
LABELS = "CREATE TABLE IF NOT EXISTS labels (place TEXT PRIMARY KEY, told TEXT NOT NULL)"


def create_database(path: Path) -> None:
    """Make the database if it is missing.

    Raises BadInput for a file that is no database, and for one that a newer Studio wrote.
    """
    with _connected(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise BadInput(f"{path} was written by a newer Studio: upgrade to open it")
        if version == 0:
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute(LABELS)
        connection.execute("COMMIT")


@contextmanager
def read_database(space: Workspace) -> Iterator[sqlite3.Connection]:
    """A connection for reading. Rows give their columns by name."""
    with _connected(space.database) as connection:
        yield connection


@contextmanager
def write_database(space: Workspace, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
    """A transaction, exclusive among all processes. An error in the block rolls it back.

    durable: wait until it is on the disk. A transaction that is not durable survives the death of
    any process but perhaps not a power cut, and takes a tenth of the time: it is for progress,
    which is written many times a second.
    """
    with _connected(space.database) as connection:
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        # Closing a connection rolls back its open transaction.
        with closing(sqlite3.connect(path, timeout=WAIT, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            yield connection
    except OverflowError as error:
        raise BadInput("there is no number that large in the workspace") from error
    except sqlite3.DatabaseError as error:
        if refusal := _refusal(path, error):
            raise refusal from error
        raise


class DatabaseBusy(BadInput):
    """Another process has held the database too long, or the disk failed."""


def _refusal(path: Path, error: sqlite3.DatabaseError) -> BadInput | None:
    """A SQLite error as a message for users; None where they can do nothing about it."""
    # The low byte is the kind of an error; the higher bytes add details, such as the call.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return BadInput(
            f"{path} is damaged ({error}): move it away; adapters, pictures and runs are files "
            "beside it and stay, and only the list of jobs is lost"
        )
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return BadInput(f"{path} cannot be written: {error}")
    if code == sqlite3.SQLITE_IOERR:
        return DatabaseBusy(f"{path} cannot be read or written ({error}): is its disk full?")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseBusy(f"{path} is held by another process: try again when that is done")
    return None
