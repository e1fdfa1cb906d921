-- Events of Stripe's were kept whole, with the buyer's name, address, email and phone. From here on
-- only the members that are read are written (src/stripe/kept.rs), and this trims the older events
-- to the same ones. The table is written anew, and its old file goes with the transaction.

-- An id, or the whole object where it was expanded.
CREATE FUNCTION kept_id(member JSONB) RETURNS JSONB LANGUAGE SQL AS $$
    SELECT CASE jsonb_typeof(member) WHEN 'object' THEN member->'id' ELSE member END
$$;

-- The members of a refund that are read. Other objects have some of them, and more.
CREATE FUNCTION kept_refund(object JSONB) RETURNS JSONB LANGUAGE SQL AS $$
    SELECT jsonb_build_object(
        'id', object->'id',
        'amount', object->'amount',
        'currency', object->'currency',
        'status', object->'status',
        'payment_intent', kept_id(object->'payment_intent'),
        'charge', kept_id(object->'charge'))
$$;

CREATE FUNCTION kept_event(id TEXT, kind TEXT, payload TEXT) RETURNS TEXT LANGUAGE plpgsql AS $$
DECLARE
    object JSONB;
    kept JSONB := '{}';
BEGIN
    BEGIN
        object := payload::jsonb #> '{data,object}';
    EXCEPTION WHEN OTHERS THEN
        -- Postgres takes fewer texts for JSON than Stripe does: not the escape of NUL, and not half
        -- of a surrogate pair. They stand in people's names, never in what is kept.
        BEGIN
            object := regexp_replace(payload, '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', '?', 'g')::jsonb
                #> '{data,object}';
        EXCEPTION WHEN OTHERS THEN
            object := NULL;
        END;
    END;
    IF jsonb_typeof(object) = 'object' AND (kind LIKE 'checkout.session.%' OR kind LIKE 'refund.%'
        OR kind LIKE 'charge.dispute.%' OR kind IN ('charge.refunded', 'charge.refund.updated'))
    THEN
        kept := kept_refund(object) || jsonb_build_object(
            'amount_refunded', object->'amount_refunded',
            'amount_subtotal', object->'amount_subtotal',
            'amount_total', object->'amount_total',
            'payment_status', object->'payment_status');
        IF jsonb_typeof(object->'metadata') = 'object' THEN
            kept := kept || jsonb_build_object('metadata', jsonb_build_object(
                'farebox', object->'metadata'->'farebox',
                'account', object->'metadata'->'account',
                'pack', object->'metadata'->'pack',
                'credits', object->'metadata'->'credits'));
        END IF;
        IF jsonb_typeof(object #> '{refunds,data}') = 'array' THEN
            kept := kept || jsonb_build_object('refunds', jsonb_build_object('data', (
                SELECT coalesce(jsonb_agg(kept_refund(refund)), '[]')
                FROM jsonb_array_elements(object #> '{refunds,data}') refund
                WHERE jsonb_typeof(refund) = 'object')));
        END IF;
        IF jsonb_typeof(object->'balance_transactions') = 'array' THEN
            kept := kept || jsonb_build_object('balance_transactions', (
                SELECT coalesce(jsonb_agg(jsonb_build_object(
                    'amount', moved->'amount', 'currency', moved->'currency')), '[]')
                FROM jsonb_array_elements(object->'balance_transactions') moved
                WHERE jsonb_typeof(moved) = 'object'));
        END IF;
    END IF;
    RETURN jsonb_strip_nulls(jsonb_build_object(
        'id', id, 'type', kind, 'data', jsonb_build_object('object', kept)))::text;
END
$$;

ALTER TABLE stripe_events
    ALTER COLUMN payload TYPE TEXT USING kept_event(id, kind, payload);

DROP FUNCTION kept_event(TEXT, TEXT, TEXT);
DROP FUNCTION kept_refund(JSONB);
DROP FUNCTION kept_id(JSONB);

-- Finds the purchases that an account began lately and has not paid; each new purchase looks for them.
CREATE INDEX IF NOT EXISTS unpaid_by_account ON payments (account, created_at) WHERE NOT paid;

-- An account's live keys, and those that it revoked lately: an account page lists them, and what was
-- revoked is kept for ever.
CREATE INDEX IF NOT EXISTS api_keys_by_end ON api_keys (account, revoked_at);
