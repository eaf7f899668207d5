"""A ledger: takes outcomes from RabbitMQ, and books each cancelled payment once, as docs/outcomes.md says.

    pip install pika pydantic           # and the types: schemas/README.md says how cancel_outcome.py is generated
    python listener.py amqps://ledger:...@rabbitmq.internal:5671/payments ledger.sqlite

It declares the queue `ledger.example` and binds it. One file of SQLite holds what it knows; the transaction makes a crash
harmless: what was not committed comes again, and what comes again is known by its id.
"""

import sqlite3
import sys

from cancel_outcome import CancelOutcome, Status


def open_books(path: str) -> sqlite3.Connection:
    books = sqlite3.connect(path)
    books.execute("create table if not exists seen (id text primary key)")
    books.execute("create table if not exists subjects (subject text primary key, status text, terminal int, decided_at text)")
    books.execute("create table if not exists reversals (payment text primary key, subject text)")
    return books


def book(books: sqlite3.Connection, body: bytes) -> str:
    """Stores what this event says, and tells what was done. What cannot be read raises: it needs a person."""
    event = CancelOutcome.model_validate_json(body)
    data = event.data
    with books:
        if not books.execute("insert or ignore into seen values (?)", (event.id,)).rowcount:
            return "known"
        before = books.execute("select status, terminal, decided_at from subjects where subject = ?", (event.subject,)).fetchone()
        if before and before[1]:
            two_ends = data.terminal and before[0] != data.status.value
            return f"ALARM: two ends, {before[0]} and {data.status.value}" if two_ends else "after the end"
        if before and not data.terminal and data.decided_at <= before[2]:
            return "older"
        row = (event.subject, data.status.value, data.terminal, data.decided_at)
        books.execute("insert or replace into subjects values (?, ?, ?, ?)", row)
        if data.status is Status.cancelled:
            # The id that all intents for this payment share; an item of a batch is a payment of its own.
            payment = data.item.merchant_unique_code if data.item else (data.reference or {}).get("paymentId", event.subject)
            if books.execute("insert or ignore into reversals values (?, ?)", (payment, event.subject)).rowcount:
                return f"reversed {payment}"
        return data.status.value


def main() -> None:
    import pika

    books = open_books(sys.argv[2])
    channel = pika.BlockingConnection(pika.URLParameters(sys.argv[1])).channel()
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000, "x-overflow": "reject-publish"}
    channel.queue_declare("ledger.example", durable=True, arguments=arguments)
    channel.queue_bind("ledger.example", "cancel.outcomes", "#")
    channel.basic_qos(prefetch_count=100)
    for delivery, _, body in channel.consume("ledger.example"):
        print(delivery.routing_key, book(books, body), flush=True)
        channel.basic_ack(delivery.delivery_tag)


if __name__ == "__main__":
    main()
