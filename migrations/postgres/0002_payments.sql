-- Selling credits through Stripe: the tables of migrations/sqlite/0002_payments.sql. Times are
-- milliseconds since 1970.

-- What tells this ledger's sales from those of another one on the same Stripe account.
ALTER TABLE ledger ADD COLUMN id TEXT NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', '');

-- The inbox: events as they came, kept before they are acknowledged.
CREATE TABLE stripe_events (
    id          TEXT COLLATE "C" PRIMARY KEY,
    kind        TEXT   NOT NULL,
    payload     TEXT   NOT NULL,
    state       TEXT   NOT NULL CHECK (state IN ('received', 'applied', 'foreign', 'ignored', 'failed')),
    note        TEXT,
    received_at BIGINT NOT NULL
);
CREATE INDEX stripe_events_by_age ON stripe_events (received_at, id);
CREATE INDEX stripe_events_to_do ON stripe_events (state, received_at, id) WHERE state IN ('received', 'failed');

-- What is known of each payment and what was done about it: a document that is read and written whole,
-- with the columns that lists and sums ask for.
CREATE TABLE payments (
    id         TEXT COLLATE "C" PRIMARY KEY,
    -- NULL until a session of this ledger is known to have led to it.
    account    TEXT COLLATE "C",
    paid       BOOLEAN NOT NULL,
    document   TEXT    NOT NULL,
    created_at BIGINT  NOT NULL
);
CREATE INDEX payments_by_account ON payments (account, paid);

-- Stripe's ids of a payment: its session, payment intent, charge and disputes.
CREATE TABLE payment_names (
    name    TEXT COLLATE "C" PRIMARY KEY,
    payment TEXT COLLATE "C" NOT NULL
);

CREATE TABLE stripe_customers (
    account  TEXT COLLATE "C" PRIMARY KEY,
    customer TEXT NOT NULL
);

-- The disputes that keep an account from spending; accounts.frozen is true while it has any.
CREATE TABLE freezes (
    dispute TEXT COLLATE "C" PRIMARY KEY,
    account TEXT COLLATE "C" NOT NULL
);
CREATE INDEX freezes_by_account ON freezes (account);
