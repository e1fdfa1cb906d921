-- Selling credits through Stripe. Times are milliseconds since 1970.

-- What tells this ledger's sales from those of another one on the same Stripe account.
ALTER TABLE ledger ADD COLUMN id TEXT;
UPDATE ledger SET id = lower(hex(randomblob(16)));

-- The inbox: events as they came, kept before they are acknowledged.
CREATE TABLE stripe_events (
    id          TEXT PRIMARY KEY,
    kind        TEXT    NOT NULL,
    payload     TEXT    NOT NULL,
    state       TEXT    NOT NULL CHECK (state IN ('received', 'applied', 'foreign', 'ignored', 'failed')),
    note        TEXT,
    received_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX stripe_events_by_age ON stripe_events (received_at, id);
CREATE INDEX stripe_events_to_do ON stripe_events (received_at) WHERE state IN ('received', 'failed');

-- What is known of each payment and what was done about it: a document that is read and written
-- whole, with the columns that lists and sums ask for.
CREATE TABLE payments (
    id         TEXT PRIMARY KEY,
    -- NULL until a session of this ledger is known to have led to it.
    account    TEXT,
    paid       INTEGER NOT NULL CHECK (paid IN (0, 1)),
    document   TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX payments_by_account ON payments (account, paid);

-- Stripe's ids of a payment: its session, payment intent, charge and disputes.
CREATE TABLE payment_names (
    name    TEXT PRIMARY KEY,
    payment TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE stripe_customers (
    account  TEXT PRIMARY KEY,
    customer TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The disputes that keep an account from spending.
CREATE TABLE freezes (
    dispute TEXT PRIMARY KEY,
    account TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX freezes_by_account ON freezes (account);
