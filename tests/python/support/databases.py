"""A database of one's own, on the PostgreSQL that the tests are given."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql


@contextmanager
def fresh_database(maintenance_url: str) -> Iterator[str]:
    """Makes an empty database, yields its URL, and drops it."""
    name = f"whatsnext_python_{os.getpid()}_{secrets.token_hex(4)}"
    with psycopg.connect(maintenance_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield urlunsplit(urlsplit(maintenance_url)._replace(path=f"/{name}"))
    finally:
        with psycopg.connect(maintenance_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
