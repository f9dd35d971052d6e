#!/usr/bin/env python3
"""Loads an SQLite database from several processes, then asks SQLite whether it is whole.

sqlite-load.py DATABASE JOURNAL-MODE SECONDS

Each process moves amounts between accounts; their sum never changes. With 0 seconds it only checks.
"""

import os
import random
import sqlite3
import sys
import time

ACCOUNTS = 500
AMOUNT = 1000
PROCESSES = 3


def connect(path, journal):
    database = sqlite3.connect(path, timeout=60, isolation_level=None)
    mode = database.execute(f"PRAGMA journal_mode={journal}").fetchone()[0]
    assert mode == journal, f"journal mode {mode}, expected {journal}"
    return database


def fill(path, journal):
    database = connect(path, journal)
    database.execute("CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, amount INTEGER, note BLOB)")
    database.execute("BEGIN")
    for account in range(ACCOUNTS):
        database.execute("INSERT OR IGNORE INTO account VALUES (?, ?, ?)", (account, AMOUNT, b"x" * 300))
    database.execute("COMMIT")
    database.close()


def load(path, journal, until, seed):
    database = connect(path, journal)
    choose = random.Random(seed)
    transfers = 0
    while time.monotonic() < until:
        amount = choose.randrange(50)
        database.execute("BEGIN IMMEDIATE")
        for change in (amount, -amount):
            note = choose.randbytes(choose.randrange(2000))
            database.execute(
                "UPDATE account SET amount = amount + ?, note = ? WHERE id = ?",
                (change, note, choose.randrange(ACCOUNTS)),
            )
        database.execute("ROLLBACK" if choose.random() < 0.1 else "COMMIT")
        transfers += 1
    database.close()
    return transfers


def check(path, journal):
    database = connect(path, journal)
    said = database.execute("PRAGMA integrity_check").fetchall()
    assert said == [("ok",)], f"integrity_check: {said}"
    total = database.execute("SELECT sum(amount) FROM account").fetchone()[0]
    assert total == ACCOUNTS * AMOUNT, f"the sum is {total}"
    database.close()


def main():
    path, journal, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    if seconds:
        fill(path, journal)
        until = time.monotonic() + seconds
        children = []
        for seed in range(PROCESSES):
            child = os.fork()
            if child == 0:
                os._exit(0 if load(path, journal, until, seed) else 1)
            children.append(child)
        for child in children:
            _, status = os.waitpid(child, 0)
            assert status == 0, "a process failed, or moved nothing"
    check(path, journal)


main()
